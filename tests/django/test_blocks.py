"""Every block of every kind of stream: none has an id, or a reconnection time, without data.

Most clients ignore the id of a block without data, and some take it for an empty message.
"""

from __future__ import annotations

import itertools
import json

import pytest
from django.urls import path

from flosse_bus import bus, buses, sse_stream
from flosse_bus.backends.memory import MemoryBackend
from flosse_bus.exceptions import BackendUnavailable
from flosse_bus.test import wait_until
from flosse_bus.urls import urlpatterns as ours

pytestmark = pytest.mark.django_db(transaction=True)


@sse_stream(retry=5000, heartbeat=0.02)
def generator(request):
    yield ("named", {"n": 1}, "1")
    raise ValueError("no")


@sse_stream(retry=5000)
def empty(request):
    return iter(())


@sse_stream
def following(request):
    yield from bus.follow("news", snapshot=lambda: ["first"])


urlpatterns = [
    path("events/", *[pattern.callback for pattern in ours][:1]),
    path("generator/", generator),
    path("empty/", empty),
    path("following/", following),
]


def stop(stream):
    buses["default"].hubs.end_all("shutdown")


def wait(stream):
    """Let heartbeats come."""


def publish(stream):
    bus.publish("news", "a\nb")


# Where, with which id, and what happens after the first block; and the blocks that come, by name.
CASES = [
    ("/events/?topic=news", "", wait, ["stream-open", "stream-ping", "stream-ping"]),
    ("/events/?topic=news", "", publish, ["stream-open", "message"]),
    ("/events/?topic=news&envelope=1", "", publish, ["stream-open", "message"]),
    ("/events/?topic=news", "nonsense", publish, ["stream-open", "stream-reset", "message"]),
    ("/events/?topic=news", "abc-5", publish, ["stream-open", "stream-reset", "message"]),
    (
        "/events/?topic=news",
        "earliest",
        publish,
        ["stream-open", "stream-reset", "message", "message"],
    ),
    ("/generator/", "", wait, ["named", "error"]),
    ("/empty/", "", wait, []),
    ("/following/", "", publish, ["message", "stream-ping", "message"]),
]


@pytest.mark.parametrize(("where", "after", "happen", "names"), CASES)
def test_no_block_has_an_id_without_data(
    settings, configure, subscribe, where, after, happen, names
):
    settings.ROOT_URLCONF = __name__
    configure(HISTORY_SIZE=2, MAX_PENDING=2, HEARTBEAT=0.05 if happen is wait else 60)
    for n in range(4):
        bus.publish("news", n)
    base, _, query = where.partition("?")
    extra = {"HTTP_LAST_EVENT_ID": after} if after else {}
    stream = subscribe(query, base, **extra)
    blocks = list(itertools.islice(stream, 1))
    happen(stream)
    blocks += itertools.islice(stream, len(names) - 1) if names else stream
    assert [block.event for block in blocks] == names
    assert all(block.data is not None for block in blocks)


def test_nor_after_an_overflow(configure, subscribe):
    configure(HISTORY_SIZE=2, MAX_PENDING=2)
    stream = subscribe("topic=news")
    blocks = [next(stream)]
    for n in range(50):
        bus.publish("news", n)
    counters = bus.hubs.threaded().hub.board.counters
    wait_until(lambda: counters["overflows"])
    while blocks[-1].event != "stream-reset":
        blocks.append(next(stream))
    assert all(block.data is not None for block in blocks)


def test_refusals_too(subscribe):
    stop(None)
    [block] = subscribe("topic=news", HTTP_LAST_EVENT_ID="abc-5")
    assert (block.event, block.id, block.retry > 0) == ("stream-error", "abc-5", True)


def test_a_backend_that_goes_down_while_a_stream_opens(subscribe, monkeypatch):
    def fail(*args):
        raise BackendUnavailable("gone")

    stream = subscribe("topic=news", HTTP_LAST_EVENT_ID=bus.cursor())
    monkeypatch.setattr(MemoryBackend, "read", fail)
    monkeypatch.setattr(MemoryBackend, "tail", fail)
    [block] = stream
    assert (block.event, block.id != "", block.retry > 0) == ("stream-error", True, True)
    assert json.loads(block.data)["code"] == "unavailable"
