"""A Flask app whose tasks run in its application context.

greenworker flask_app                # the worker
flask --app flask_app run            # the web server
curl http://127.0.0.1:5000/teapot    # {"item":"teapot","price":"18 EUR"}
"""

import time
from typing import Any

from flask import Flask, current_app

from greenworker import App
from greenworker.contrib.flask import FlaskMiddleware

web = Flask(__name__)
web.config["CURRENCY"] = "EUR"

app = App(middleware=[FlaskMiddleware(web)])


@app.task(timeout=10)
def quote(item: str) -> dict[str, Any]:
    time.sleep(0.5)  # stands for the supplier's web service
    return {"item": item, "price": f"{3 * len(item)} {current_app.config['CURRENCY']}"}


@web.get("/<item>")
def show(item: str) -> dict[str, Any]:
    return quote.delay(item).get(timeout=30)
