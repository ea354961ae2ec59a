"""What is logged, and how often: a storm or a long outage is told of in a few lines."""

from __future__ import annotations

import asyncio
import logging

import pytest

from flosse_bus import notices
from flosse_bus.backends.memory import MemoryBackend
from flosse_bus.exceptions import BackendUnavailable
from flosse_bus.notices import Notices, Outages
from flosse_bus.test import item
from tests.hubs import Flags, all_of, hub_of, publish, reached


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(notices, "time", clock)
    return clock


@pytest.fixture
def lines(caplog):
    """What has been logged since this was last called, as (level, text)."""
    caplog.set_level("INFO", logger="flosse_bus")

    def lines():
        found = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "flosse_bus"]
        caplog.clear()
        return found

    return lines


def test_a_storm_of_warnings_is_ten_and_a_sum(clock, lines):
    storm = Notices("default")
    assert [storm.due("reset") for _ in range(2000)] == [True] * 10 + [False] * 1990
    assert storm.due("given up")  # of another kind
    clock.now += 59
    storm.sum_up()
    assert lines() == []
    clock.now += 1
    storm.sum_up()
    assert lines() == [("WARNING", "bus 'default': 1990 more times within 60 s: reset")]
    storm.sum_up()
    assert lines() == []
    assert [storm.due("reset") for _ in range(20)] == [True] * 10 + [False] * 10
    clock.now += 60
    assert storm.due("reset")  # also where nobody sums up from time to time
    assert lines() == [("WARNING", "bus 'default': 10 more times within 60 s: reset")]


BEGUN = ("WARNING", "bus 'a' is not heard any more, trying again: cut")
FAILED = "bus 'a' is still not heard after {} s: down"
AGAIN = "bus 'a' is heard again after {:.1f} s"


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        # (what happens, and how many seconds after what was before)
        ([("begin", 0), ("end", 3)], [BEGUN, ("INFO", AGAIN.format(3))]),
        (
            [("begin", 0), *[("fail", 4)] * 150, ("end", 1)],
            [
                BEGUN,
                *[("WARNING", FAILED.format(n)) for n in range(60, 601, 60)],
                ("INFO", AGAIN.format(601)),
            ],
        ),
        # One that comes and goes.
        (
            [("begin", 0), ("end", 1), *[("begin", 1), ("end", 1)] * 45],
            [
                BEGUN,
                ("INFO", AGAIN.format(1)),
                BEGUN,
                ("INFO", AGAIN.format(1)),
            ],
        ),
        # A second one that lasts.
        (
            [("begin", 0), ("end", 1), ("begin", 1), ("fail", 30), ("fail", 30), ("end", 1)],
            [
                BEGUN,
                ("INFO", AGAIN.format(1)),
                ("WARNING", FAILED.format(60)),
                ("INFO", AGAIN.format(61)),
            ],
        ),
    ],
)
def test_an_outage_is_told_of_once_a_minute(clock, lines, steps, wanted):
    outages = Outages("a")
    for step, seconds in steps:
        clock.now += seconds
        if step == "begin":
            outages.begin(BackendUnavailable("cut"), expected=True)
        elif step == "fail":
            outages.go_on(BackendUnavailable("down"))
        else:
            outages.end()
    assert lines() == wanted


class Away(MemoryBackend):
    """Its listeners fail while it is away, and so do new ones."""

    away = False
    tries = 0

    def listen(self):
        listener = super().listen()
        self.tries += 1
        inner, watch = listener.take, listener.watch

        def take():
            self._raise()
            return inner()

        async def watch_if_there(names):
            self._raise()
            await watch(names)

        listener.take, listener.watch = take, watch_if_there
        return listener

    def _raise(self):
        if self.away:
            raise BackendUnavailable("away")


def test_attempts_to_listen_again_and_streams_add_no_lines(run, monkeypatch, lines):
    monkeypatch.setattr("flosse_bus.feed.BACKOFF", (0.001, 0.001))

    async def main():
        async with hub_of(Away) as (hub, backend):
            streams = [await hub.open(["t"], after=None, signal=Flags()) for _ in range(20)]
            backend.away = True
            backend.publish(item("t", 1))
            tries = backend.tries
            while backend.tries < tries + 50:
                await asyncio.sleep(0.001)
            backend.away = False
            last = backend.publish(item("t", 2))
            await reached(hub, last.position)
            while hub.feed.down:
                await asyncio.sleep(0.001)
            assert all(len(all_of(stream)) == 3 for stream in streams)

    run(main())
    (begun, ended) = lines()
    assert begun == ("WARNING", "bus 'default' is not heard any more, trying again: away")
    assert ended[0] == "INFO"
    assert ended[1].startswith("bus 'default' is heard again after ")


def test_overflows_and_resets_are_warned_of_without_what_was_in_them(run, lines):
    async def main():
        async with hub_of(max_pending=2, history_size=3) as (hub, backend):
            subscription = await hub.open(["t"], after=None, signal=Flags())
            all_of(subscription)
            await publish(hub, backend, "t", *["secret"] * 10)
            all_of(subscription)
            await hub.open(["t"], after="foreign-1", signal=Flags())

    run(main())
    assert lines() == [
        ("WARNING", "stream overflow on t: it goes on from the history"),
        ("WARNING", "stream reset (overflow) on t"),
        ("WARNING", "stream reset (unknown) on t"),
    ]


def test_a_storm_of_resets_is_counted_in_full_and_summed_up_by_the_hub(
    run, monkeypatch, clock, lines
):
    async def main():
        async with hub_of(heartbeat=0.02) as (hub, _backend):
            for _ in range(200):
                hub.close(await hub.open(["t"], after="foreign-1", signal=Flags()))
            assert hub.board.counters["resets"] == 200
            assert lines() == [("WARNING", "stream reset (unknown) on t")] * 10
            clock.now += 60
            found = []
            while not found:
                await asyncio.sleep(0.001)
                found = lines()
            assert found == [
                ("WARNING", "bus 'default': 190 more times within 60 s: stream reset (unknown)")
            ]

    run(main())


def test_housekeeping_says_nothing_of_an_outage(run, monkeypatch, lines):
    """Topics of streams that have gone are unwatched by whatever listener there is next."""

    async def main():
        async with hub_of(Away) as (hub, _backend):
            hub.close(await hub.open(["t"], after=None, signal=Flags()))

            async def unwatch(names):
                raise BackendUnavailable("away")

            hub.feed._listener.unwatch = unwatch
            await hub.feed.sweep(linger=0)
            assert not hub.board.names

    run(main())
    assert lines() == []


def test_a_probe_that_fails_every_second_is_not_logged_every_second(run, monkeypatch, caplog):
    monkeypatch.setattr("flosse_bus.feed.PROBE", 0.001)
    calls = []

    async def main():
        async with hub_of() as (hub, _backend):
            await hub.open(["t"], after=None, signal=Flags())

            async def probe():
                calls.append(1)
                raise ValueError("wrong")

            hub.feed._listener.probe = probe
            while len(calls) < 50:
                await asyncio.sleep(0.001)

    run(main())
    assert [r.levelno for r in caplog.records].count(logging.ERROR) == 10
