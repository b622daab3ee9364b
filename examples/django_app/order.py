"""Places orders as a view would: within a transaction, and packed only if that is committed.

greenworker tasks     # in one terminal: the worker
python order.py       # in another
"""

import time

from django.core.management import call_command
from django.db import connection, transaction
from tasks import Order, pack

from greenworker.contrib.django import delay_on_commit


def place(item: str) -> Order:
    with transaction.atomic():
        order = Order.objects.create(item=item)
        delay_on_commit(pack, order.pk)
        time.sleep(0.2)  # a worker that knew of the order by now would not find it
        if item == "nothing":
            raise ValueError("nothing is no item")
    return order


if __name__ == "__main__":
    if not connection.introspection.table_names():
        call_command("migrate", run_syncdb=True, verbosity=0)
    order = place("teapot")
    try:
        place("nothing")
    except ValueError as error:
        print(error)
    deadline = time.monotonic() + 30
    while order.state == "new" and time.monotonic() < deadline:
        time.sleep(0.05)
        order.refresh_from_db()
    print(f"{order.item}: {order.state}, of {Order.objects.count()} order")
