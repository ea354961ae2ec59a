"""``publish_many`` beside as many calls of ``publish``, on whichever backend a bus has."""

import statistics
import time
from typing import Any

EVENTS = 10_000
ROUNDS = 3


def compare(bus: Any, data: Any) -> dict[str, float]:
    """Return the seconds that each way takes for the same events, in turns; medians.

    Nothing if the bus has no ``publish_many``.
    """
    if not hasattr(bus, "publish_many"):
        return {}
    rows = [("load.0", {"n": n, **data}) for n in range(EVENTS)]
    one_by_one, many = [], []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for topic, row in rows:
            bus.publish(topic, row, using=None)
        one_by_one.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        sent = bus.publish_many(rows, using=None)
        many.append(time.perf_counter() - begin)
        if len(sent) != EVENTS or len({event.id for event in sent}) != EVENTS:
            raise AssertionError(f"publish_many sent {len(sent)} of {EVENTS} events")
    return {
        "events": EVENTS,
        "one_by_one_s": statistics.median(one_by_one),
        "many_s": statistics.median(many),
    }
