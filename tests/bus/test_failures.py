"""Backends that fail, hang, stop without a word, or are closed in the midst of it."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from flosse_bus.backends.memory import MemoryBackend
from flosse_bus.bus import Bus
from flosse_bus.conf import load
from flosse_bus.exceptions import BackendUnavailable
from flosse_bus.test import item, wait_until
from tests.hubs import Flags, all_of, brief, hub_of, publish, reached


class Flaky(MemoryBackend):
    """Its listener fails when told to, and it can be unreachable."""

    down = False
    broken = False

    def listen(self):
        self._raise()
        listener = super().listen()
        inner = listener.__aiter__

        async def failing():
            async for batch in inner():
                if self.broken:
                    self.broken = False
                    raise ConnectionError("cut")
                yield batch

        listener.__class__ = type(
            "FlakyListener", (type(listener),), {"__aiter__": lambda _: failing()}
        )
        return listener

    async def atail(self):
        self._raise()
        return await super().atail()

    async def aread(self, names):
        self._raise()
        return await super().aread(names)

    def _raise(self):
        if self.down:
            raise BackendUnavailable("down")


def test_a_listener_that_fails_is_replaced_and_nothing_is_lost(run, monkeypatch, caplog):
    caplog.set_level("DEBUG", logger="flosse_bus")
    monkeypatch.setattr("flosse_bus.feed.BACKOFF", (0.001, 0.002))

    async def main():
        async with hub_of(Flaky) as (hub, backend):
            subscription = await hub.open(["t"], after=None, signal=Flags())
            all_of(subscription)
            await publish(hub, backend, "t", 0)
            backend.broken = backend.down = True
            backend.publish(item("t", 1))
            while "is still not heard" not in caplog.text:
                await asyncio.sleep(0.001)
            with pytest.raises(BackendUnavailable):
                await hub.open(["other"], after=None, signal=Flags())
            last = backend.publish(item("t", 2))
            backend.down = False
            await reached(hub, last.position)
            await publish(hub, backend, "t", 3)
            assert brief(all_of(subscription)) == [0, 1, 2, 3]
            assert hub.board.counters["resets"] == 0

    run(main())
    assert "bus 'default' is not heard any more, trying again: " in caplog.text
    assert "bus 'default' is heard again" in caplog.text


class Slow(MemoryBackend):
    """Its snapshots take a while to arrive, as over a network."""

    def __init__(self, config):
        super().__init__(config)
        self.reading = asyncio.Event()
        self.arrived = asyncio.Event()

    async def aread(self, names):
        snapshot = self.read(names)
        if names:  # a hub that starts reads the tail only
            self.reading.set()
            await self.arrived.wait()
        return snapshot


def test_what_is_published_while_a_snapshot_travels_is_not_lost(run):
    async def main():
        async with hub_of(Slow) as (hub, backend):
            backend.publish(item("t", 0))
            opening = asyncio.create_task(hub.open(["t", "p.*"], after="earliest", signal=Flags()))
            await backend.reading.wait()
            backend.publish(item("p.1", 1))
            last = backend.publish(item("t", 2))
            await reached(hub, last.position)
            backend.arrived.set()
            assert brief(all_of(await opening)) == [("open", "earliest"), 0, 1, 2]

    run(main())


class Deaf(MemoryBackend):
    """Its listener never delivers anything."""

    def listen(self):
        listener = super().listen()
        listener.put = lambda record: None
        return listener


def test_a_listener_that_does_not_get_on_is_an_error_and_not_a_hang(run, monkeypatch):
    monkeypatch.setattr("flosse_bus.feed.PATIENCE", 0.5)

    async def main():
        async with hub_of(Deaf) as (hub, backend):
            await hub.open(["t"], after=None, signal=Flags())
            backend.publish(item("u"))
            with pytest.raises(BackendUnavailable, match="was not reached within"):
                await hub.open(["u"], after=None, signal=Flags())
            await hub.open(["t"], after=None, signal=Flags())

    run(main())


def test_housekeeping_goes_on_by_itself_and_survives_errors(run, monkeypatch, caplog):
    monkeypatch.setattr("flosse_bus.feed.LINGER", 0.02)

    async def main():
        async with hub_of(heartbeat=0.02) as (hub, _backend):
            subscription = await hub.open(["t"], after=None, signal=Flags())

            async def unwatch(names):
                raise ConnectionError("cut")

            hub.feed._listener.unwatch = unwatch
            hub.close(subscription)
            while "could not drop idle topics" not in caplog.text:
                await asyncio.sleep(0.001)
            signal = Flags()
            await hub.open(["t"], after=None, signal=signal, heartbeat=0.02)
            while not signal.times:
                await asyncio.sleep(0.001)

    run(main())


class Ending(MemoryBackend):
    """Its listener stops without a word after each batch."""

    def listen(self):
        listener = super().listen()
        inner = listener.__aiter__

        async def ending():
            yield await anext(inner())

        listener.__class__ = type(
            "EndingListener", (type(listener),), {"__aiter__": lambda _: ending()}
        )
        return listener


class Stuck(Flaky):
    """Once it is broken, listening again takes for ever the first time."""

    stuck = 0

    def listen(self):
        listener = super().listen()
        if self.stuck:
            self.stuck -= 1

            async def watch(names):
                await asyncio.Event().wait()

            listener.watch = watch
        return listener


def test_listening_again_may_hang(run, monkeypatch, caplog):
    caplog.set_level("DEBUG", logger="flosse_bus")
    monkeypatch.setattr("flosse_bus.feed.BACKOFF", (0.001, 0.002))
    monkeypatch.setattr("flosse_bus.feed.PATIENCE", 0.1)

    async def main():
        async with hub_of(Stuck) as (hub, backend):
            subscription = await hub.open(["t"], after=None, signal=Flags())
            all_of(subscription)
            backend.broken, backend.stuck = True, 1
            backend.publish(item("t", 1))
            while backend.stuck:
                await asyncio.sleep(0.001)
            with pytest.raises(BackendUnavailable):
                await hub.open(["u"], after=None, signal=Flags())
            last = backend.publish(item("t", 2))
            await reached(hub, last.position)
            assert brief(all_of(subscription)) == [1, 2]

    run(main())
    assert "TimeoutError" in caplog.text


def test_a_listener_that_ends_is_replaced(run, monkeypatch, caplog):
    monkeypatch.setattr("flosse_bus.feed.BACKOFF", (0.001, 0.002))

    async def main():
        async with hub_of(Ending) as (hub, backend):
            subscription = await hub.open(["t"], after=None, signal=Flags())
            for n in range(3):
                await publish(hub, backend, "t", n)
            assert brief(all_of(subscription)) == [("open", "0"), 0, 1, 2]

    run(main())
    assert "trying again: its listener has ended" in caplog.text


def test_streams_that_open_while_the_listener_is_down_do_not_hold_it_up(run, monkeypatch):
    monkeypatch.setattr("flosse_bus.feed.BACKOFF", (0.001, 0.002))
    monkeypatch.setattr("flosse_bus.feed.PATIENCE", 3600)

    async def main():
        async with hub_of(Flaky) as (hub, backend):
            subscription = await hub.open(["warm"], after=None, signal=Flags())
            all_of(subscription)
            backend.broken = True
            last = backend.publish(item("warm", 1))
            opening = [
                asyncio.create_task(hub.open([f"cold.{n}"], after=None, signal=Flags()))
                for n in range(10)
            ]
            await reached(hub, last.position)
            assert brief(all_of(subscription)) == [1]
            for result in await asyncio.gather(*opening, return_exceptions=True):
                if isinstance(result, BackendUnavailable):
                    assert "is not heard at present" in str(result)
                else:
                    assert brief(all_of(result)) == [("open", "1")]

    run(main())


def test_a_backend_that_hangs_fails_those_who_open_and_nobody_else(run, monkeypatch):
    monkeypatch.setattr("flosse_bus.feed.PATIENCE", 0.05)
    monkeypatch.setattr("flosse_bus.feed.LINGER", 0.01)

    async def main():
        async with hub_of(Slow, heartbeat=0.02) as (hub, backend):
            backend.arrived.set()
            signal = Flags()
            subscription = await hub.open(["t"], after=None, signal=signal, heartbeat=0.02)
            backend.arrived.clear()
            opening = [hub.open([f"t.{n}"], after=None, signal=Flags()) for n in range(20)]
            failed = await asyncio.gather(*opening, return_exceptions=True)
            assert {type(error) for error in failed} == {BackendUnavailable}
            all_of(subscription)
            signal.times = 0
            while not signal.times:  # heartbeats go on
                await asyncio.sleep(0.001)
            await publish(hub, backend, "t", 1)
            assert brief(all_of(subscription)) == [1]

    run(main())


@pytest.mark.parametrize("warm", [False, True])
def test_a_hub_that_closes_ends_what_still_opens(run, warm):
    async def main():
        async with hub_of(Slow) as (hub, backend):
            if warm:
                backend.arrived.set()
                await hub.open(["w"], after=None, signal=Flags())
                backend.arrived.clear()
                backend.reading.clear()
            opening = [
                asyncio.create_task(hub.open([name], after=None, signal=Flags())) for name in "ab"
            ]
            await backend.reading.wait()
            await hub.aclose()
            assert [one.closed for one in await asyncio.gather(*opening)] == ["shutdown"] * 2
            assert backend._listeners == []
            assert asyncio.all_tasks() - {asyncio.current_task()} <= _outer
            assert hub.streams == warm

    async def outer():
        _outer.update(asyncio.all_tasks())
        await main()

    _outer = set()
    run(outer())


def test_an_opener_that_is_cancelled_leaves_nothing_behind(run):
    async def main():
        async with hub_of(Slow) as (hub, backend):
            for steps in range(12):
                backend.arrived.set() if steps % 2 else backend.arrived.clear()
                opening = asyncio.create_task(hub.open(["t"], after=None, signal=Flags()))
                for _ in range(steps):
                    await asyncio.sleep(0)
                opening.cancel()
                backend.arrived.set()
                result = (await asyncio.gather(opening, return_exceptions=True))[0]
                if not isinstance(result, asyncio.CancelledError):
                    hub.close(result)
                while hub._openings:
                    await asyncio.sleep(0)
                assert hub.streams == 0

    run(main())


def test_a_hub_whose_tasks_are_cancelled_ends_its_streams_and_starts_over(run):
    """As tools do that cancel every task of a loop."""

    async def main():
        async with hub_of() as (hub, backend):
            first = await hub.open(["t"], after=None, signal=Flags())
            for task in hub.feed._tasks:
                task.cancel()
            while first.closed is None:
                await asyncio.sleep(0)
            last = backend.publish(item("t", 1))
            second = await hub.open(["t"], after="earliest", signal=Flags())
            assert len(backend._listeners) == 1
            await publish(hub, backend, "t", 2)
            assert brief(all_of(second)) == [("open", "earliest"), 1, 2]
            assert last.position == 1

    run(main())


def test_the_hub_does_not_keep_the_context_of_its_first_caller(run):
    request = contextvars.ContextVar("request", default=None)

    async def main():
        async with hub_of() as (hub, _backend):
            request.set("first")
            await hub.open(["t"], after=None, signal=Flags())
            assert {task.get_context().get(request) for task in hub.feed._tasks} == {None}

    if hasattr(asyncio.Task, "get_context"):  # Python 3.12
        run(main())


def test_a_thread_that_opens_a_stream_while_the_bus_closes_gets_an_answer():
    config = load("default")
    backend = Slow(config)
    bus = Bus(config, backend)
    answers = []

    def consume():
        with bus.subscribe("t") as events:
            answers.append(list(events))

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    wait_until(backend.reading.is_set)
    bus.close()
    thread.join(10)
    assert answers == [[]]


class Watching(MemoryBackend):
    """It knows what its listener is to hear, and can keep who reads waiting."""

    def __init__(self, config):
        super().__init__(config)
        self.watched = set()
        self.may_read = asyncio.Event()

    def listen(self):
        listener = super().listen()

        async def watch(_, names):
            self.watched.update(names)

        async def unwatch(_, names):
            self.watched.difference_update(names)

        watching = {"watch": watch, "unwatch": unwatch}
        listener.__class__ = type("WatchingListener", (type(listener),), watching)
        return listener

    async def aread(self, names):
        if names:
            await self.may_read.wait()
        return await super().aread(names)


def test_an_opening_that_is_cancelled_leaves_nothing_with_the_listener(run):
    async def main():
        async with hub_of(Watching) as (hub, backend):
            opening = asyncio.create_task(hub.open(["a", "b.*"], after=None, signal=Flags()))
            while not backend.watched:
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening])
            backend.may_read.set()
            await hub.open(["c"], after=None, signal=Flags())
            assert backend.watched == {"a", "b.*", "c"}
            await hub.feed.sweep()
            assert backend.watched == {"c"}

    run(main())
