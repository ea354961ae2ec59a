"""A bus on a Redis of the test's own."""

from __future__ import annotations

import contextlib
import dataclasses

from flosse_bus.backends.redis import RedisBackend
from flosse_bus.bus import Bus
from flosse_bus.conf import load
from flosse_bus.exceptions import BackendUnavailable
from tests.processes import wait_until


def backend_at(location="", *, options=None, **settings):
    config = dataclasses.replace(load("default"), location=location, **settings)
    return RedisBackend(config, **(options or {}))


@contextlib.contextmanager
def bus_at(location="", **settings):
    backend = backend_at(location, **settings)
    bus = Bus(backend.config, backend)
    try:
        yield bus
    finally:
        bus.close()


def publish(bus, topic, data):
    """Publish, as often as it takes, and return the event."""

    def once():
        with contextlib.suppress(BackendUnavailable):
            return bus.publish(topic, data, using=None)

    return wait_until(once, f"{data!r} to be published")


def round_trip(bus, topic="a"):
    """Publish to an open stream of the bus, and to one that resumes."""
    with bus.subscribe(topic) as events:
        event = publish(bus, topic, "there and back")
        assert next(events) == event
    with bus.subscribe("**", after=event.id) as events:
        second = publish(bus, topic, 2)
        assert next(events) == second
    assert bus.history(topic)[-2:] == [event, second]
    return second


def taken(events, count):
    """Take events, shown as their data, and resets as the reason."""
    shown = []
    for _ in range(count):
        event = next(events)
        shown.append(event.data if event.event != "stream-reset" else event.data["reason"])
    return shown
