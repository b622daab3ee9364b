"""The tasks of the app, in a module that the web server and the worker both import."""

import time
from typing import Any

from greenworker import App

app = App()


@app.task(timeout=10)
def quote(item: str) -> dict[str, Any]:
    """Ask a supplier what an item costs."""
    time.sleep(0.2)  # stands for the supplier's web service
    return {"item": item, "price": 3 * len(item)}
