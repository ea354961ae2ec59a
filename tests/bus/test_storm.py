"""Many streams that come at once: the backend is asked for each topic, not for each stream."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from flosse_bus.backends.memory import MemoryBackend
from flosse_bus.exceptions import BackendUnavailable
from flosse_bus.pulse import FRESH, Pulse
from flosse_bus.test import item
from tests.hubs import Flags, all_of, brief, hub_of, publish
from tests.processes import wait_until


class Counting(MemoryBackend):
    """Counts what it is asked, and answers as slowly as a broker may."""

    def __init__(self, config):
        super().__init__(config)
        self.asked = Counter()

    async def aread(self, names):
        self.asked["read"] += 1
        await asyncio.sleep(0.002)
        return await super().aread(names)

    async def atail(self):
        self.asked["tail"] += 1
        await asyncio.sleep(0.002)
        return await super().atail()


async def reconnect(hub, topics, cursor, count):
    opening = (hub.open([topic], after=cursor, signal=Flags()) for topic in topics * count)
    return await asyncio.gather(*opening)


def test_a_storm_on_topics_that_are_followed_asks_the_backend_nothing(run):
    async def main():
        async with hub_of(Counting) as (hub, backend):
            [first] = await reconnect(hub, ["t"], None, 1)
            all_of(first)
            cursor = str(first.cursor)
            await publish(hub, backend, "t", *range(100))
            backend.asked.clear()
            back = await reconnect(hub, ["t"], cursor, 300)
            assert not backend.asked
            assert {tuple(brief(all_of(one))[1:]) for one in back} == {tuple(range(100))}

    run(main())


def test_a_storm_on_topics_that_are_not_followed_asks_for_each_topic(run):
    async def main():
        async with hub_of(Counting) as (hub, backend):
            cursor = str(backend.tail())
            topics = ["a", "b", "c"]
            for topic in topics:
                for data in (1, 2):
                    backend.publish(item(topic, data))
            back = await reconnect(hub, topics, cursor, 100)
            assert backend.asked["read"] == 1 + len(topics)  # and where the log ends, once
            assert backend.asked["tail"] <= 1
            assert all(brief(all_of(one))[1:] == [1, 2] for one in back)

    run(main())


def test_streams_that_begin_now_share_the_question_where_now_is(run):
    async def main():
        async with hub_of(Counting) as (hub, backend):
            await reconnect(hub, ["t"], None, 1)
            backend.asked.clear()
            await reconnect(hub, ["t"], None, 300)
            assert 1 <= backend.asked["tail"] <= 2

    run(main())


def test_who_asks_while_a_question_is_under_way_gets_a_later_answer(run):
    """What was published before a stream was opened is not sent to it."""

    async def main():
        async with hub_of(Counting) as (hub, backend):
            await reconnect(hub, ["t"], None, 1)
            early = asyncio.ensure_future(hub.open(["t"], after=None, signal=Flags()))
            while backend.asked["tail"] < 2:
                await asyncio.sleep(0)
            await publish(hub, backend, "t", "old")
            late = await hub.open(["t"], after=None, signal=Flags())
            await early
            await publish(hub, backend, "t", "new")
            assert brief(all_of(late))[1:] == ["new"]

    run(main())


class Slow:
    """A backend that answers when it is let, or fails."""

    def __init__(self):
        self.asked = 0
        self.let = threading.Event()
        self.let.set()
        self.down = False

    def tail(self):
        self.asked += 1
        assert self.let.wait(20)
        if self.down:
            raise BackendUnavailable("down")


def test_the_pulse_is_taken_once_for_all_who_wait(monkeypatch):
    came = []

    def monotonic():
        came.append(1)
        return time.monotonic()

    monkeypatch.setattr("flosse_bus.pulse.time", SimpleNamespace(monotonic=monotonic))
    backend = Slow()
    pulse = Pulse(backend)
    backend.let.clear()
    backend.down = True
    answers = []

    def check():
        try:
            pulse.check()
        except BackendUnavailable as error:
            answers.append(str(error))

    threads = [threading.Thread(target=check) for _ in range(20)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(came) == 20, "all to ask")
    backend.let.set()
    for thread in threads:
        thread.join(20)
    assert answers == ["down"] * 20
    assert backend.asked == 1


def test_a_good_pulse_lasts_a_moment_and_a_bad_one_not_at_all(monkeypatch):
    now = 100.0
    monkeypatch.setattr("flosse_bus.pulse.time", SimpleNamespace(monotonic=lambda: now))
    backend = Slow()
    pulse = Pulse(backend)
    pulse.check()
    now += FRESH / 2
    backend.down = True
    pulse.check()
    assert backend.asked == 1
    now += FRESH
    with pytest.raises(BackendUnavailable, match="down"):
        pulse.check()
    backend.down = False
    now += 0.001
    pulse.check()
    assert backend.asked == 3
