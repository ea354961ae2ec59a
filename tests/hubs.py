"""A hub driven one step at a time."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses

from flosse_bus.backends.memory import MemoryBackend
from flosse_bus.conf import load
from flosse_bus.hub import Hub
from flosse_bus.message import Mark, Message, Opening, Reset
from flosse_bus.notices import Notices
from flosse_bus.test import item


def brief(items):
    """Show items as test tables write them: data, reset reasons, marked positions.

    An opening is shown by the position that a stream was resumed at, or else begins with.
    """
    shown = []
    for one in items:
        if isinstance(one, Message):
            shown.append(one.to_event().data)
        elif isinstance(one, Reset):
            shown.append(f"{one.reason}:{','.join(one.topics)}")
        elif isinstance(one, Opening):
            position = one.id and one.id.rpartition("-")[2]
            shown.append(("resumed" if one.resumed else "open", position))
        else:
            assert isinstance(one, Mark)
            shown.append(("mark", one.id.rpartition("-")[2]))
    return shown


class Flags:
    """A signal that counts."""

    def __init__(self):
        self.times = 0

    def set(self):
        self.times += 1


@contextlib.asynccontextmanager
async def hub_of(backend_class=MemoryBackend, **settings):
    config = dataclasses.replace(load("default"), **settings)
    backend = backend_class(config)
    hub = Hub(backend, config, Notices(config.alias))
    try:
        yield hub, backend
    finally:
        await hub.aclose()


async def publish(hub, backend, topic, *data):
    """Publish and wait until the hub has handed it out."""
    for one in data:
        record = backend.publish(item(topic, one))
    await reached(hub, record.position)


async def reached(hub, position):
    while hub.board.position < position:
        await asyncio.sleep(0)


def all_of(subscription):
    items = []
    while taken := subscription.take():
        items += taken
    return items
