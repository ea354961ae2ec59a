"""Slow readers, replay and housekeeping, driven one step at a time."""

from __future__ import annotations

import asyncio
import threading
import time

from flosse_bus.test import item
from tests.asgi import eventually
from tests.hubs import Flags, all_of, brief, hub_of, publish, reached


def test_an_overflow_is_made_good_from_the_ring(run):
    async def main():
        async with hub_of(max_pending=3, history_size=100) as (hub, backend):
            subscription = await hub.open(["t"], after=None, signal=Flags())
            assert brief(all_of(subscription)) == [("open", "0")]
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


def test_a_loss_is_told_before_any_id_that_is_beyond_it(run):
    """A batch was trimmed in the log before it was heard: of another topic it has more."""

    async def main():
        async with hub_of() as (hub, backend):
            subscription = await hub.open(["a", "b"], after=None, signal=Flags())
            all_of(subscription)
            place = {"epoch": backend.tail().epoch, "published_at": time.time()}
            await hub.feed._take(
                [
                    item("b", "b2").placed(position=2, previous=0, **place),
                    item("a", "a3").placed(position=3, previous=1, **place),
                ]
            )
            told = all_of(subscription)
            assert brief(told) == ["overflow:a", "b2", "a3", ("mark", "3")]
            assert told[0].id is None or told[0].id.endswith("-0")

    run(main())


def test_an_overflow_does_not_swallow_a_reset_or_the_place_to_resume(run):
    """The second loss comes before the first reset has been read."""

    async def main():
        async with hub_of(max_pending=2, history_size=3) as (hub, backend):
            await publish(hub, backend, "lost", 0, 1, 2, 3, 4)
            await publish(hub, backend, "whole", "a")
            epoch = hub.board.epoch or backend.tail().epoch
            subscription = await hub.open(["lost", "whole"], after=f"{epoch}-0", signal=Flags())
            opening, first = subscription.take()[:2]
            assert brief([opening, first]) == [("open", "0"), "expired:lost"]
            assert first.id == f"{epoch}-0"  # "whole" must still be replayed from there
            await publish(hub, backend, "whole", "b", "c")
            assert brief(all_of(subscription)) == ["a", "b", "c", ("mark", "8")]
            assert subscription.cursor.position == 8

    async def publish(hub, backend, topic, *data):
        for one in data:
            record = backend.publish(item(topic, one))
        if hub.board.epoch:
            await reached(hub, record.position)

    run(main())


def test_an_opening_does_not_say_resumed_before_a_reset(run):
    """More than is kept has come between the registration and the first look."""

    async def main():
        async with hub_of(history_size=3) as (hub, backend):
            first = await hub.open(["a"], after=None, signal=Flags())
            await publish(hub, backend, "a", 1)
            all_of(first)
            again = await hub.open(["a"], after=str(first.cursor), signal=Flags())
            await publish(hub, backend, "a", *range(2, 8))
            assert brief(all_of(again)) == [("open", "1"), "overflow:a"]

    run(main())


def test_a_second_overflow_repeats_no_reset(run):
    async def main():
        async with hub_of(max_pending=2, history_size=4) as (hub, backend):
            for n in range(6):
                backend.publish(item("lost", n))
            backend.publish(item("whole", "a"))
            epoch = backend.tail().epoch
            subscription = await hub.open(["lost", "whole"], after=f"{epoch}-0", signal=Flags())
            assert brief(subscription.take()) == [("open", "0"), "expired:lost"]
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
            assert brief(all_of(subscription)) == [("resumed", "3")]
            await reached(hub, 3)
            assert brief(all_of(subscription)) == []
            await publish(hub, backend, "t", 3)
            assert brief(all_of(subscription)) == [3]
            assert brief(all_of(other)) == [("open", "0"), 0, 1, 2, 3]

    run(main())


def test_heartbeats_carry_the_cursor_of_a_quiet_stream(run):
    async def main():
        async with hub_of() as (hub, backend):
            signal = Flags()
            subscription = await hub.open(["quiet"], after=None, signal=signal, heartbeat=5)
            all_of(subscription)
            await publish(hub, backend, "busy", *range(7))
            assert not subscription.take()
            subscription.beat(1e12, 1e9)
            assert signal.times
            assert brief(subscription.take()) == [("mark", "7")]
            assert not subscription.take()

    run(main())


def test_a_heartbeat_does_not_overtake_what_is_pending(run):
    async def main():
        async with hub_of() as (hub, backend):
            subscription = await hub.open(["t"], after=None, signal=Flags(), heartbeat=5)
            all_of(subscription)
            await publish(hub, backend, "t", "pending")
            await publish(hub, backend, "busy", *range(7))
            subscription.beat(1e12, 1e9)
            assert brief(all_of(subscription)) == ["pending"]

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
            await hub.feed.sweep(linger=1000)
            assert set(hub.board._interests) == {"t", "p.*"}
            await hub.feed.sweep(linger=0)
            assert hub.board._interests == hub.board._channels == {}
            await publish(hub, backend, "t", 2)
            again = await hub.open(["t", "p.*"], after=cursor, signal=Flags())
            assert brief(all_of(again)) == [("resumed", "0"), 0, 1, 2]

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
            await hub.feed.sweep()
            assert hub.board._channels == {}
            # Live readers have missed nothing; those who come back from before have.
            await publish(hub, backend, "p.1", "again")
            assert brief(all_of(subscription)) == ["again"]
            late = await hub.open(["p.*"], after=f"{epoch}-3", signal=Flags())
            assert brief(all_of(late)) == [("open", "3"), "expired:p.*"]

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


def test_an_exact_topic_knows_more_than_the_pattern_that_had_it(run):
    """The pattern has forgotten what is old; the topic's own history is exact."""

    async def main():
        async with hub_of(history_ttl=0.3) as (hub, backend):
            pattern = await hub.open(["p.*"], after=None, signal=Flags())
            all_of(pattern)
            await publish(hub, backend, "p.1", "old")
            await publish(hub, backend, "p.2", "old")
            published = time.time()
            await eventually(lambda: time.time() - published > 0.3, "both to be too old")
            await hub.feed.sweep()  # p.1 and p.2 are dead; the pattern knows that something is lost
            await publish(hub, backend, "p.1", "new")
            epoch = backend.tail().epoch
            exact = await hub.open(["p.1"], after=f"{epoch}-1", signal=Flags())
            assert brief(all_of(exact)) == [("resumed", "1"), "new"]
            assert brief(all_of(pattern)) == ["old", "old", "new"]

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
