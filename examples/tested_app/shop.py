"""Tasks as a shop has them; test_shop.py tests them, and starts neither a server nor a worker.

pip install 'greenworker[embedded]' pytest
pytest                                          # in this folder
"""

from greenworker import App, Reject

app = App()
mails: list[str] = []  # as it were


@app.task(retries=3, backoff=[10, 60, 600])
def charge(order: int, cents: int) -> str:
    if cents <= 0:
        raise Reject("nothing to pay")
    receipt = bank(order, cents)
    mail.delay(order, f"paid: {receipt}")
    mail.apply_async((order, "how was it?"), countdown=7 * 86400)
    return receipt


@app.task
def mail(order: int, text: str) -> None:
    mails.append(f"{order}: {text}")


@app.cron("0 9 * * mon", tz="Europe/Berlin")
@app.task
def report() -> None:
    mails.append("last week's orders")


def bank(order: int, cents: int) -> str:
    raise ConnectionError("no bank here")
