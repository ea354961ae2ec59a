"""Streams and readers of topics that are forgotten, or could be taken for one that is."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest

from flosse_bus.backends.memory import MemoryBackend
from flosse_bus.bus import Bus
from flosse_bus.conf import load
from flosse_bus.exceptions import HistoryGone
from flosse_bus.test import item, wait_until
from flosse_bus.test.base import topics
from tests.hubs import Flags, all_of, brief, hub_of, publish, reached

SHORT = {"short.*": {"ttl": 0.05}}


@contextlib.contextmanager
def bus_of(**settings):
    config = dataclasses.replace(load("default"), topics=topics(SHORT), **settings)
    bus = Bus(config, MemoryBackend(config))
    try:
        yield bus
    finally:
        bus.close()


def forget(backend, topic):
    """Publish to a short topic until it is forgotten."""
    backend.publish(item(topic))

    def gone():
        backend.publish(item("busy"))
        return topic not in backend.read([topic]).topics

    wait_until(gone)


@pytest.mark.parametrize("name", ["quiet", "quiet.*"])
def test_a_quiet_topic_of_another_class_resumes(name):
    topic = name.replace("*", "1")
    with bus_of() as bus:
        before = bus.publish("start", 0).id
        forget(bus.backend, "short.1")
        assert bus.history(topic, after=before) == []
        with bus.subscribe(name, after=before) as events:
            sent = bus.publish(topic, "here")
            assert next(events) == sent
        assert bus.history(topic, after=before) == [sent]


@pytest.mark.parametrize("name", ["short.1", "short.2", "short.*", "**"])
def test_a_class_that_has_lost_something_resets(name):
    with bus_of() as bus:
        before = bus.publish("start", 0).id
        forget(bus.backend, "short.1")
        with bus.subscribe(name, after=before) as events:
            assert next(events).data == {"topics": [name], "reason": "expired"}
        if "*" not in name:
            with pytest.raises(HistoryGone):
                bus.history(name, after=before)


def test_the_earliest_of_a_quiet_topic_has_lost_nothing():
    with bus_of() as bus:
        forget(bus.backend, "short.1")
        with bus.subscribe("quiet", after="earliest") as events:
            sent = bus.publish("quiet", "here")
            assert next(events) == sent


def test_a_repair_resets_only_the_class_that_has_lost(run):
    async def main():
        async with hub_of(topics=topics(SHORT)) as (hub, backend):
            names = ["quiet", "quiet.*", "short.1", "short.*"]
            streams = [await hub.open([name], after=None, signal=Flags()) for name in names]
            for stream in streams:
                all_of(stream)
            await publish(hub, backend, "start", 0)
            forget(backend, "short.1")  # the loop waits meanwhile, and then hears nothing of it
            hub.feed._listener.interrupt()
            last = backend.publish(item("quiet", "here"))
            await reached(hub, last.position)
            shown = [brief(all_of(stream)) for stream in streams]
            assert shown[:2] == [["here"], []]
            assert [one[0] for one in shown[2:]] == ["overflow:short.1", "overflow:short.*"]

    run(main())


def test_a_quiet_topic_beside_a_pattern_that_covers_all(run):
    """The stream on the pattern has lost something, the topic that it covers has not."""

    async def main():
        async with hub_of(topics=topics(SHORT)) as (hub, backend):
            start = backend.publish(item("start")).cursor
            forget(backend, "short.1")
            every = await hub.open(["**"], after=str(start), signal=Flags())
            assert brief(all_of(every))[1:2] == ["expired:**"]
            for name in ("quiet", "quiet.*"):
                stream = await hub.open([name], after=str(start), signal=Flags())
                assert brief(all_of(stream)) == [("resumed", str(start.position))]

    run(main())
