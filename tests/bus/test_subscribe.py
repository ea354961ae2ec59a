"""bus.subscribe: exact replay, resets and patterns, in sync and async code alike."""

from __future__ import annotations

import asyncio
import threading

import pytest
from django.core.exceptions import SynchronousOnlyOperation

from flosse_bus import bus, buses
from flosse_bus.exceptions import InvalidTopic
from flosse_bus.test import wait_until


@pytest.fixture(params=["sync", "async"])
def read(request, run):
    """Subscribe, publish while subscribed, and return the first ``count`` (event name, data)."""

    def read(*topics, after=None, count, then=lambda: None):
        def shown(event):
            return (event.event, event.data)

        def in_thread():
            with bus.subscribe(*topics, after=after) as events:
                then()
                return [shown(next(events)) for _ in range(count)]

        async def in_loop():
            async with bus.subscribe(*topics, after=after) as events:
                then()
                return [shown(await anext(events)) for _ in range(count)]

        return in_thread() if request.param == "sync" else run(in_loop())

    return read


def publish(topic, *data):
    return [bus.publish(topic, one) for one in data]


def plain(*data):
    return [(None, one) for one in data]


def reset(reason, *topics):
    return ("stream-reset", {"topics": list(topics), "reason": reason})


def test_live_only_by_default(read):
    publish("t", 1, 2)
    assert read("t", count=2, then=lambda: publish("t", 3, 4)) == plain(3, 4)


def test_from_a_cursor(read):
    events = publish("t", 1, 2, 3)
    assert read("t", after=events[0].id, count=3, then=lambda: publish("t", 4)) == plain(2, 3, 4)


def test_from_the_earliest(read, configure):
    configure(HISTORY_SIZE=2)
    publish("a", 1, 2, 3)
    publish("b", 4)
    got = read("a", "b", after="earliest", count=5, then=lambda: publish("a", 5))
    assert got == [reset("expired", "a"), *plain(2, 3, 4, 5)]


def test_one_cursor_for_many_topics(read):
    publish("a", 1)
    cursor = bus.cursor()
    for n in range(2, 8):
        publish("abc"[n % 3], n)
    assert read("a", "c", after=cursor, count=4) == plain(2, 3, 5, 6)


def test_patterns_and_new_topics(read):
    cursor = bus.cursor()
    publish("a.1", 1)
    publish("b.1", "no")
    publish("a.1.x", "no")

    def later():
        publish("a.2", 2)
        publish("a.1", 3)

    assert read("a.*", after=cursor, count=3, then=later) == plain(1, 2, 3)


def test_overlapping_names_deliver_once(read):
    cursor = bus.cursor()
    publish("a.1", 1)
    publish("a.1", 2)
    got = read("a.1", "a.*", "**", "a.1", after=cursor, count=3, then=lambda: publish("a.1", 3))
    assert got == plain(1, 2, 3)


@pytest.mark.parametrize("after", ["garbage", "ffffffffffff-1", "", "5", "a-b-c"])
def test_an_unknown_cursor_is_a_reset_and_then_live(read, after):
    publish("t", 1)
    assert read("t", "u", after=after, count=2, then=lambda: publish("t", 2)) == [
        reset("unknown", "t", "u"),
        (None, 2),
    ]


def test_a_cursor_from_the_future_is_unknown(read):
    epoch = bus.cursor().rpartition("-")[0]
    got = read("t", after=f"{epoch}-999", count=2, then=lambda: publish("t", 1))
    assert got == [reset("unknown", "t"), (None, 1)]


def test_an_old_cursor_is_a_reset_and_then_live(read, configure):
    configure(HISTORY_SIZE=2)
    events = publish("t", 1, 2, 3, 4)
    got = read("t", after=events[0].id, count=2, then=lambda: publish("t", 5))
    assert got == [reset("expired", "t"), (None, 5)]


def test_expired_by_age(read, configure):
    configure(HISTORY_TTL=0.05)
    cursor = bus.cursor()
    publish("t", 1)
    wait_until(lambda: bus.history("t") == [])
    got = read("t", after=cursor, count=2, then=lambda: publish("t", 2))
    assert got == [reset("expired", "t"), (None, 2)]


def test_a_loss_in_one_topic_does_not_cost_the_others(read, configure):
    configure(HISTORY_SIZE=2)
    cursor = bus.cursor()
    publish("lost", 1, 2, 3)
    publish("whole", 4, 5)
    got = read("lost", "whole", after=cursor, count=4, then=lambda: publish("lost", 6))
    assert got == [reset("expired", "lost"), (None, 4), (None, 5), (None, 6)]


def test_a_loss_under_a_pattern_names_the_pattern(read, configure):
    configure(HISTORY_SIZE=2)
    cursor = bus.cursor()
    publish("a.1", 1, 2, 3)
    publish("a.2", 4)
    publish("b", 5)
    got = read("a.*", "b", after=cursor, count=3)
    assert got == [reset("expired", "a.*"), (None, 4), (None, 5)]


def test_a_busy_topic_does_not_expire_a_quiet_one(read, configure):
    configure(HISTORY_SIZE=2)
    publish("quiet", 1)
    cursor = bus.cursor()
    publish("busy", *range(50))
    publish("quiet", 2)
    assert read("quiet", after=cursor, count=1) == plain(2)


def test_flush_resets_open_streams(read):
    publish("t", 1)

    def lose_all():
        bus.backend.flush()
        publish("t", 2)

    got = read("t", count=1, then=lose_all)
    assert got == [reset("unknown", "t")]


def test_a_stream_opened_right_after_a_flush_gets_what_follows(run):
    async def main():
        async with bus.subscribe("t"):
            publish("t", 1, 2, 3)
            bus.backend.flush()  # the loop has not heard of it yet
            async with bus.subscribe("t") as events:
                publish("t", 4)
                return [(e.event, e.data) for e in [await anext(events)]]

    assert run(main()) == plain(4)


def test_the_reader_knows_where_it_stands(run):
    async def main():
        first = bus.publish("t", 1)
        async with bus.subscribe("t", after="earliest") as events:
            assert (await anext(events)).id == events.cursor == first.id
        async with bus.subscribe("t") as events:
            assert events.cursor == first.id

    run(main())


def test_ends_when_closed(run):
    async def main():
        async with bus.subscribe("t") as events:
            task = asyncio.create_task(anext(events, "over"))
            await asyncio.sleep(0)
            events.close()
            assert await task == "over"

    run(main())
    with bus.subscribe("t") as events:
        threading.Thread(target=events.close).start()
        assert list(events) == []


def test_closing_the_bus_ends_streams_everywhere(run):
    got = []

    def consume():
        with bus.subscribe("t") as events:
            got.append("open")
            got.extend(events)
        got.append("over")

    thread = threading.Thread(target=consume)
    thread.start()
    wait_until(lambda: got == ["open"])
    buses.close_all()
    thread.join(10)
    assert got == ["open", "over"]


def test_leaving_takes_the_subscription_out(run):
    async def main():
        hub = bus.hubs.here()
        async with bus.subscribe("a", "b.*"):
            assert hub.streams == bus.hubs.streams == 1
        assert hub.streams == 0
        with pytest.raises(ZeroDivisionError):
            async with bus.subscribe("a"):
                raise ZeroDivisionError
        assert hub.streams == 0

    run(main())


def test_sync_iteration_is_refused_in_an_event_loop(run):
    async def main():
        with pytest.raises(SynchronousOnlyOperation, match="async with"), bus.subscribe("t"):
            pass

    run(main())


@pytest.mark.parametrize("topics", [(), ("a b",), ("a", "**.b")])
def test_bad_topics(topics):
    with pytest.raises(InvalidTopic):
        bus.subscribe(*topics)


def test_many_loops_hear_the_same(run):
    """Threads with event loops of their own, as under a threaded test client or worker."""
    got = []
    ready = threading.Barrier(5, timeout=20)

    def consume():
        async def main():
            async with bus.subscribe("t") as events:
                await asyncio.to_thread(ready.wait)
                got.append([(await anext(events)).data for _ in range(20)])

        asyncio.run(main())

    threads = [threading.Thread(target=consume) for _ in range(4)]
    for thread in threads:
        thread.start()
    ready.wait()
    publish("t", *range(20))
    for thread in threads:
        thread.join(20)
    assert got == [list(range(20))] * 4
