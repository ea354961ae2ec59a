"""Publish without a subscriber, beside one ``json.dumps`` of the same payload. Prints JSON.

In turns of 100, so that what else the machine does hits both; medians. Then 10,000 events by
``publish_many`` and one by one.
"""

import json
import statistics
import sys
import time

import django

django.setup()

from django.core.serializers.json import DjangoJSONEncoder

from benchmarks.peers.many import compare
from flosse_bus import bus

DATA = {
    "action": "updated", "model": "shop.order", "pk": 12345,
    "fields": {"status": "paid", "customer": 7, "total": "349.00"},
}  # fmt: skip


def dumps() -> None:
    json.dumps(DATA, cls=DjangoJSONEncoder)


def publish() -> None:
    bus.publish("load.0", DATA)


def publish_now() -> None:
    bus.publish("load.0", DATA, using=None)


times: dict[str, list[float]] = {"dumps": [], "publish": [], "publish_now": []}
calls = (dumps, publish, publish_now)
for _ in range(20):
    for call in calls:
        for _ in range(100):
            call()
for _ in range(int(sys.argv[1])):
    for call in calls:
        for _ in range(100):
            begin = time.perf_counter_ns()
            call()
            times[call.__name__].append(time.perf_counter_ns() - begin)
medians = {f"{name}_us": statistics.median(values) / 1e3 for name, values in times.items()}
print(
    json.dumps({
        **medians,
        **compare(bus, DATA),
        "bytes": len(json.dumps(DATA)),
        "ratio": medians["publish_us"] / medians["dumps_us"],
        "ratio_now": medians["publish_now_us"] / medians["dumps_us"],
    })
)  # fmt: skip
