"""The smallest program: one task, sent and awaited.

    greenworker hello      # in one terminal: the worker
    python hello.py        # in another: prints "Hello, world!"

Without $GREENWORKER_URL the two share an embedded server, with its data in `.greenworker/` here.
"""

from greenworker import App

app = App()


@app.task
def hello(name: str) -> str:
    return f"Hello, {name}!"


if __name__ == "__main__":
    print(hello.delay("world").get(timeout=30))
