"""greenworker's side: an app with a task that does nothing. As a program: send N of them."""

import os
import sys

from greenworker import App

app = App(os.environ["BENCH_URL"])


@app.task(name="noop")
def noop() -> None:
    pass


if __name__ == "__main__":
    print(noop.delay_many((() for _ in range(int(sys.argv[1]))), results=False), "sent")
