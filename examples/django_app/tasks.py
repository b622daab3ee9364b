"""The tasks of a Django project."""

from greenworker import App
from greenworker.contrib.django import DjangoMiddleware

# Before models are imported: it sets Django up, unless a web server has.
app = App(middleware=[DjangoMiddleware("settings")])

from shop.models import Order


@app.task
def pack(order: int) -> str:
    """Pack what was ordered; there is such an order, since the message is sent after the commit."""
    found = Order.objects.get(pk=order)
    found.state = "packed"
    found.save()
    return found.item
