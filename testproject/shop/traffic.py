"""Customers who never sleep: places, moves on and clears away orders, at a given rate."""

import logging
import random
import threading

from django.db import OperationalError, close_old_connections

from .forms import PRICES
from .models import Customer, Order

logger = logging.getLogger(__name__)

#: Orders on the board before the oldest is cleared away.
KEPT = 25
_NEXT = {"new": "paid", "paid": "packed", "packed": "sent"}


def start(rate):
    """Run in a daemon thread of this process, until the process ends."""
    thread = threading.Thread(target=run, kwargs={"rate": rate}, name="traffic", daemon=True)
    thread.start()
    return thread


def run(*, rate, count=None, stop=None, seed=None):
    """Make ``rate`` changes a second: ``count`` of them, or until the event ``stop`` is set."""
    stop = stop or threading.Event()
    choose = random.Random(seed)
    done = 0
    try:
        while (count is None or done < count) and not stop.wait(1 / rate):
            try:
                change(choose)
            except OperationalError as error:  # SQLite under load, or the demo being rebuilt
                logger.warning("no change this time: %s", error)
            done += 1
    finally:
        close_old_connections()
    return done


def change(choose):
    """Make one change."""
    orders = list(Order.objects.order_by("pk").only("pk", "status"))
    open_orders = [order for order in orders if order.status in _NEXT]
    if len(orders) >= KEPT and choose.random() < 0.5:
        orders[0].delete()
    elif open_orders and choose.random() < 0.7:
        order = choose.choice(open_orders)
        order.status = _NEXT[order.status]
        order.save(update_fields=["status"])
    else:
        item = choose.choice(list(PRICES))
        quantity = choose.randint(1, 4)
        customer = choose.choice(list(Customer.objects.all()))
        Order.objects.create(
            customer=customer, item=item, quantity=quantity, total=PRICES[item] * quantity
        )
