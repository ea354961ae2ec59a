"""Slow readers, interruptions and epochs, driven one step at a time."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading

import pytest

from flosse_bus.backends.memory import MemoryBackend
from flosse_bus.conf import load
from flosse_bus.exceptions import BackendUnavailable
from flosse_bus.hub import Hub
from flosse_bus.message import Mark, Message, Reset
from flosse_bus.test import item


def brief(items):
    """Show items as test tables write them: data, reset reasons, marked positions."""
    shown = []
    for one in items:
        if isinstance(one, Message):
            shown.append(one.to_event().data)
        elif isinstance(one, Reset):
            shown.append(f"{one.reason}:{','.join(one.topics)}")
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
    hub = Hub(backend, config)
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


def test_an_overflow_is_made_good_from_the_ring(run):
    async def main():
        async with hub_of(max_pending=3, history_size=100) as (hub, backend):
            subscription = await hub.open(["t"], after=None, signal=Flags())
            assert brief(all_of(subscription)) == [("mark", "0")]
            await publish(hub, backend, "t", *range(10))
            assert hub.board.counters["overflows"] == 1
            assert brief(all_of(subscription)) == list(range(10))
            await publish(hub, backend, "t", 10)
            assert brief(all_of(subscription)) == [10]
            assert hub.board.counters["resets"] == 0

    run(main())


def test_an_overflow_beyond_the_ring_is_a_reset(run):
    async def main():
        async with hub_of(max_pending=3, history_size=5) as (hub, backend):
            subscription = await hub.open(["t"], after=None, signal=Flags())
            all_of(subscription)
            await publish(hub, backend, "t", *range(10))
            assert brief(all_of(subscription)) == ["overflow:t"]
            await publish(hub, backend, "t", 10)
            assert brief(all_of(subscription)) == [10]
            assert subscription.resets == 1

    run(main())


def test_pending_bytes_are_bounded_too(run):
    async def main():
        async with hub_of(max_event_size=1, history_size=100) as (hub, backend):
            subscription = await hub.open(["t"], after=None, signal=Flags())
            all_of(subscription)
            big = "x" * 600_000
            await publish(hub, backend, "t", big, big)
            assert hub.board.counters["overflows"] == 1
            assert brief(all_of(subscription)) == [big, big]

    run(main())


def test_one_take_is_bounded_but_never_empty_handed(run):
    async def main():
        async with hub_of() as (hub, backend):
            subscription = await hub.open(["t"], after=None, signal=Flags())
            all_of(subscription)
            await publish(hub, backend, "t", *["x" * 30_000] * 5, "y" * 100_000)
            assert [len(subscription.take()) for _ in range(5)] == [2, 2, 1, 1, 0]

    run(main())


def test_an_overflow_does_not_swallow_a_reset_or_the_place_to_resume(run):
    """The second loss comes before the first reset has been read."""

    async def main():
        async with hub_of(max_pending=2, history_size=3) as (hub, backend):
            await publish(hub, backend, "lost", 0, 1, 2, 3, 4)
            await publish(hub, backend, "whole", "a")
            epoch = hub.board.epoch or backend.tail().epoch
            subscription = await hub.open(["lost", "whole"], after=f"{epoch}-0", signal=Flags())
            [first] = subscription.take()[:1]
            assert brief([first]) == ["expired:lost"]
            assert first.cursor.position == 0  # "whole" must still be replayed from there
            await publish(hub, backend, "whole", "b", "c")
            assert brief(all_of(subscription)) == ["a", "b", "c", ("mark", "8")]
            assert subscription.cursor.position == 8

    async def publish(hub, backend, topic, *data):
        for one in data:
            record = backend.publish(item(topic, one))
        if hub.board.epoch:
            await reached(hub, record.position)

    run(main())


def test_a_second_overflow_repeats_no_reset(run):
    async def main():
        async with hub_of(max_pending=2, history_size=4) as (hub, backend):
            for n in range(6):
                backend.publish(item("lost", n))
            backend.publish(item("whole", "a"))
            epoch = backend.tail().epoch
            subscription = await hub.open(["lost", "whole"], after=f"{epoch}-0", signal=Flags())
            assert brief(subscription.take()) == ["expired:lost"]
            # Live from here, with the message and the mark pending; then it overflows.
            assert brief(subscription.take()[:1]) == ["a"]
            await publish(hub, backend, "whole", "b", "c", "d")
            assert brief(all_of(subscription)) == ["b", "c", "d"]
            assert subscription.resets == 1

    run(main())


def test_a_cursor_that_is_ahead_of_the_hub_waits_for_it(run):
    """It came by another process, or by a publisher that the loop has not heard of yet."""

    async def main():
        async with hub_of() as (hub, backend):
            other = await hub.open(["t"], after=None, signal=Flags())
            for n in range(3):
                last = backend.publish(item("t", n))
            assert hub.board.position == 0
            subscription = await hub.open(["t"], after=str(last.cursor), signal=Flags())
            assert brief(all_of(subscription)) == [("mark", "3")]
            await reached(hub, 3)
            assert brief(all_of(subscription)) == []
            await publish(hub, backend, "t", 3)
            assert brief(all_of(subscription)) == [3]
            assert brief(all_of(other)) == [("mark", "0"), 0, 1, 2, 3]

    run(main())


def test_heartbeats_carry_the_cursor_of_a_quiet_stream(run):
    async def main():
        async with hub_of() as (hub, backend):
            signal = Flags()
            subscription = await hub.open(["quiet"], after=None, signal=signal, heartbeat=5)
            all_of(subscription)
            await publish(hub, backend, "busy", *range(7))
            assert subscription.take_heartbeat() == []
            subscription.beat(1e12)
            assert signal.times
            assert brief(subscription.take_heartbeat()) == [("mark", "7")]
            assert subscription.take_heartbeat() == []

    run(main())


def test_a_heartbeat_does_not_overtake_what_is_pending(run):
    async def main():
        async with hub_of() as (hub, backend):
            subscription = await hub.open(["t"], after=None, signal=Flags(), heartbeat=5)
            all_of(subscription)
            await publish(hub, backend, "t", "pending")
            await publish(hub, backend, "busy", *range(7))
            subscription.beat(1e12)
            assert brief(subscription.take_heartbeat()) == [("mark", "0")]
            assert brief(all_of(subscription)) == ["pending"]

    run(main())


def test_an_interruption_is_repaired_from_the_log(run):
    async def main():
        async with hub_of() as (hub, backend):
            subscription = await hub.open(["t", "p.*"], after=None, signal=Flags())
            all_of(subscription)
            await publish(hub, backend, "t", 0)
            hub._listener.interrupt()
            for n in range(1, 4):
                backend.publish(item("t", n))  # these are not delivered: the inbox is void
            last = backend.publish(item("p.new", 4))
            await reached(hub, last.position)
            assert brief(all_of(subscription)) == [0, 1, 2, 3, 4]
            assert hub.board.counters["resets"] == 0

    run(main())


def test_an_interruption_that_lost_events_is_a_reset(run):
    async def main():
        async with hub_of(history_size=2) as (hub, backend):
            subscription = await hub.open(["t", "u"], after=None, signal=Flags())
            all_of(subscription)
            await publish(hub, backend, "t", 0)
            hub._listener.interrupt()
            for n in range(1, 6):
                backend.publish(item("t", n))
            last = backend.publish(item("u", "whole"))
            await reached(hub, last.position)
            assert brief(all_of(subscription)) == [0, "overflow:t", "whole", ("mark", "7")]

    run(main())


def test_a_quiet_topic_is_not_reset_by_an_interruption(run):
    async def main():
        async with hub_of(history_size=2, history_ttl=0.01) as (hub, backend):
            subscription = await hub.open(["quiet", "q.*"], after=None, signal=Flags())
            all_of(subscription)
            for n in range(50):
                backend.publish(item(f"busy.{n}", n))
                await asyncio.sleep(0.001)
            last = backend.publish(item("busy", "last"))
            assert backend.read(["quiet"]).forgotten > 0
            await reached(hub, last.position)
            hub._listener.interrupt()
            last = backend.publish(item("quiet", "hello"))
            await reached(hub, last.position)
            assert brief(all_of(subscription)) == ["hello"]

    run(main())


def test_a_hole_in_a_topic_is_a_reset(run):
    """What no listener should do, it must survive: deliver 3 after 1."""

    async def main():
        async with hub_of() as (hub, backend):
            subscription = await hub.open(["t"], after=None, signal=Flags())
            all_of(subscription)
            await publish(hub, backend, "t", 1)
            assert brief(all_of(subscription)) == [1]
            record = dataclasses.replace(
                backend.read(["t"]).topics["t"].records[0], position=3, previous=2
            )
            hub.dispatch([record])
            assert brief(all_of(subscription)) == ["overflow:t", 1]

    run(main())


def test_a_new_epoch_resets_and_goes_on(run):
    async def main():
        async with hub_of() as (hub, backend):
            subscription = await hub.open(["t", "p.*"], after=None, signal=Flags())
            all_of(subscription)
            await publish(hub, backend, "t", 0)
            backend.flush()
            last = backend.publish(item("t", 1))
            while hub.board.epoch != last.epoch:
                await asyncio.sleep(0)
            assert brief(all_of(subscription)) == ["unknown:t,p.*"]
            await publish(hub, backend, "t", 2)
            await publish(hub, backend, "p.1", 3)
            assert brief(all_of(subscription)) == [2, 3]
            # The history of the new log is whole: whoever has its first id misses nothing.
            resumed = await hub.open(["t"], after=str(last.cursor), signal=Flags())
            assert brief(all_of(resumed)) == [("mark", "1"), 2]

    run(main())


def test_idle_topics_are_dropped_and_found_again(run):
    async def main():
        async with hub_of() as (hub, backend):
            subscription = await hub.open(["t", "p.*"], after=None, signal=Flags())
            await publish(hub, backend, "t", 0)
            await publish(hub, backend, "p.1", 1)
            cursor = str(subscription.cursor)
            hub.close(subscription)
            hub.close(subscription)
            await hub.sweep(linger=1000)
            assert set(hub.board._interests) == {"t", "p.*"}
            await hub.sweep(linger=0)
            assert hub.board._interests == hub.board._channels == {}
            await publish(hub, backend, "t", 2)
            again = await hub.open(["t", "p.*"], after=cursor, signal=Flags())
            assert brief(all_of(again)) == [("mark", "0"), 0, 1, 2]

    run(main())


def test_a_pattern_does_not_hoard_dead_topics(run):
    async def main():
        async with hub_of(history_ttl=0.01) as (hub, backend):
            epoch = backend.tail().epoch
            subscription = await hub.open(["p.*"], after=None, signal=Flags())
            all_of(subscription)
            for n in range(20):
                backend.publish(item(f"p.{n}", n))
            await reached(hub, 20)
            assert brief(all_of(subscription)) == list(range(20))
            await asyncio.sleep(0.02)
            await hub.sweep()
            assert hub.board._channels == {}
            # Live readers have missed nothing; those who come back from before have.
            await publish(hub, backend, "p.1", "again")
            assert brief(all_of(subscription)) == ["again"]
            late = await hub.open(["p.*"], after=f"{epoch}-3", signal=Flags())
            assert brief(all_of(late)) == ["expired:p.*"]

    run(main())


def test_an_ended_hub_ends_what_still_opens(run):
    async def main():
        async with hub_of() as (hub, _backend):
            first = await hub.open(["t"], after=None, signal=Flags())
            hub.end_all("shutdown")
            second = await hub.open(["t"], after=None, signal=Flags())
            assert (first.closed, second.closed) == ("shutdown", "shutdown")

    run(main())


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
    monkeypatch.setattr("flosse_bus.hub.BACKOFF", (0.001, 0.002))

    async def main():
        async with hub_of(Flaky) as (hub, backend):
            subscription = await hub.open(["t"], after=None, signal=Flags())
            all_of(subscription)
            await publish(hub, backend, "t", 0)
            backend.broken = backend.down = True
            backend.publish(item("t", 1))
            while "is still not there" not in caplog.text:
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
    assert "listening on bus 'default' failed, trying again" in caplog.text


class Slow(MemoryBackend):
    """Its snapshots take a while to arrive, as over a network."""

    def __init__(self, config):
        super().__init__(config)
        self.reading = asyncio.Event()
        self.arrived = asyncio.Event()

    async def aread(self, names):
        snapshot = self.read(names)
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
            assert brief(all_of(await opening)) == [("mark", "earliest"), 0, 1, 2]

    run(main())


def test_readers_in_threads_and_the_loop_do_not_collide(run):
    """Takes from another thread, as WSGI does, while the loop hands out."""

    async def main():
        async with hub_of(max_pending=10, history_size=10_000) as (hub, backend):
            subscription = await hub.open(["t"], after=None, signal=Flags())
            got = []

            def consume():
                while len(got) < 2001:
                    got.extend(subscription.take())

            thread = threading.Thread(target=consume)
            thread.start()
            for n in range(2000):
                backend.publish(item("t", n))
                if n % 50 == 0:
                    await asyncio.sleep(0)
            await asyncio.to_thread(thread.join)
            assert brief(got[1:]) == list(range(2000))

    run(main())


class Deaf(MemoryBackend):
    """Its listener never delivers anything."""

    def listen(self):
        listener = super().listen()
        listener.put = lambda record: None
        return listener


def test_a_listener_that_does_not_get_on_is_an_error_and_not_a_hang(run, monkeypatch):
    monkeypatch.setattr("flosse_bus.hub.PATIENCE", 0.05)

    async def main():
        async with hub_of(Deaf) as (hub, backend):
            await hub.open(["t"], after=None, signal=Flags())
            backend.publish(item("u"))
            with pytest.raises(BackendUnavailable, match="is not getting on"):
                await hub.open(["u"], after=None, signal=Flags())
            await hub.open(["t"], after=None, signal=Flags())

    run(main())


def test_housekeeping_goes_on_by_itself_and_survives_errors(run, monkeypatch, caplog):
    monkeypatch.setattr("flosse_bus.hub.LINGER", 0.0)

    async def main():
        async with hub_of(heartbeat=0.02) as (hub, _backend):
            subscription = await hub.open(["t"], after=None, signal=Flags())

            async def unwatch(names):
                raise ConnectionError("cut")

            hub._listener.unwatch = unwatch
            hub.close(subscription)
            while "could not drop idle topics" not in caplog.text:
                await asyncio.sleep(0.001)
            signal = Flags()
            await hub.open(["t"], after=None, signal=signal, heartbeat=0.02)
            while not signal.times:
                await asyncio.sleep(0.001)

    run(main())


def test_an_exact_topic_knows_more_than_the_pattern_that_had_it(run):
    """The pattern has forgotten what is old; the topic's own history is exact."""

    async def main():
        async with hub_of(history_ttl=0.05) as (hub, backend):
            pattern = await hub.open(["p.*"], after=None, signal=Flags())
            all_of(pattern)
            await publish(hub, backend, "p.1", "old")
            await publish(hub, backend, "p.2", "old")
            await asyncio.sleep(0.06)
            await hub.sweep()  # p.1 and p.2 are dead; the pattern knows that something is lost
            await publish(hub, backend, "p.1", "new")
            epoch = backend.tail().epoch
            exact = await hub.open(["p.1"], after=f"{epoch}-1", signal=Flags())
            assert brief(all_of(exact)) == [("mark", "1"), "new"]
            assert brief(all_of(pattern)) == ["old", "old", "new"]

    run(main())


def test_a_loss_under_a_pattern_during_an_outage_is_told(run):
    async def main():
        async with hub_of(history_ttl=0.02) as (hub, backend):
            subscription = await hub.open(["p.*"], after=None, signal=Flags())
            all_of(subscription)
            hub._listener.interrupt()
            backend.publish(item("p.1"))  # not heard of, and expired before the loop comes to it
            until = asyncio.get_running_loop().time() + 0.03
            while asyncio.get_running_loop().time() < until:
                pass
            await reached(hub, 1)
            assert brief(all_of(subscription)) == ["overflow:p.*"]

    run(main())


def test_a_subscription_closed_while_the_hub_is_busy_is_taken_out_later(run):
    """As when the garbage collector closes a stream in the midst of a dispatch."""

    async def main():
        async with hub_of() as (hub, _backend):
            subscription = await hub.open(["t"], after=None, signal=Flags())
            with hub.board.lock:
                hub.close(subscription)
                assert subscription.closed == "closed"
                assert hub.streams == 1
            while hub.streams:
                await asyncio.sleep(0)

    run(main())
