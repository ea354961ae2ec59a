"""The contract as readers meet it: a bus on the backend, read from every kind of cursor."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from ..backends.base import BusBackend
from ..bus import Bus
from ..consumers import AsyncEvents
from ..events import Event
from ..exceptions import BackendUnavailable, HistoryGone
from .base import DEADLINE, ContractBase, item, topics

T = TypeVar("T")


class StreamContract(ContractBase):
    """Resume, replay, follow."""

    @contextlib.asynccontextmanager
    async def bus(self, **settings: Any) -> AsyncIterator[Bus]:
        with self.backend(**settings) as backend:
            bus = Bus(backend.config, backend)
            try:
                yield bus
            finally:
                await bus.hubs.here().aclose()
                await asyncio.to_thread(bus.close)

    def test_resuming_past_what_was_trimmed_by_a_pattern_or_by_bytes_is_a_reset(self) -> None:
        patterns = topics({"few.*": {"size": 2}, "small.*": {"max_bytes": 20}})

        async def main() -> None:
            async with self.bus(topics=patterns) as bus:
                for topic in ("few.1", "small.1"):
                    sent = [await _publish(bus, topic, "x" * 10) for _ in range(5)]
                    for _ in range(2):  # from the log, then from a hub's ring that has gone on
                        async with bus.subscribe(topic, after=sent[-3].id) as events:
                            assert await _take(events, 2) == sent[-2:]
                            async with bus.subscribe("few.*", topic, after=sent[-4].id) as late:
                                [reset] = await _take(late, 1)
                                assert reset.event == "stream-reset"
                                assert topic in reset.data["topics"]
                            sent.append(await _publish(bus, topic, "x" * 10))
                            assert await _take(events, 1) == sent[-1:]

        _run(main())

    def test_a_stream_resumes_anywhere_over_topics_and_patterns(self) -> None:
        topics = ["a", "a.b", "a.c", "a.b.c", "z"]
        subscriptions: list[tuple[tuple[str, ...], set[str]]] = [
            (("a",), {"a"}),
            (("a", "z"), {"a", "z"}),
            (("a.*",), {"a.b", "a.c"}),
            (("a.**", "a.b", "z"), {"a.b", "a.c", "a.b.c", "z"}),
            (("**",), set(topics)),
            (("*.b.c", "*"), {"a.b.c", "a", "z"}),
        ]

        async def main() -> None:
            choose = random.Random(1)
            async with self.bus() as bus:
                start = await bus.acursor()
                sent = [
                    await _publish(bus, choose.choice(topics), n, event=choose.choice([None, "e"]))
                    for n in range(60)
                ]
                for names, covered in subscriptions:
                    for index in (-1, 0, 7, 30, 58, 59):
                        after = sent[index].id if index >= 0 else start
                        wanted = [e for e in sent[index + 1 :] if e.topic in covered]
                        async with bus.subscribe(*names, after=after) as events:
                            assert await _take(events, len(wanted)) == wanted
                    wanted = [e for e in sent if e.topic in covered]
                    async with bus.subscribe(*names, after="earliest") as events:
                        assert await _take(events, len(wanted)) == wanted
                        last = await _publish(bus, sorted(covered)[0], "live")
                        assert await _take(events, 1) == [last]
                        sent.append(last)

        _run(main())

    def test_history_goes_on_from_a_cursor_or_says_that_it_cannot(self) -> None:
        async def main() -> None:
            async with self.bus(history_size=5) as bus:
                start = await bus.acursor("a")
                sent = [await _publish(bus, "a", n) for n in range(4)]
                assert await bus.ahistory("a") == sent
                assert await bus.ahistory("a", after=start) == sent
                assert await bus.ahistory("a", after=sent[1].id, limit=1) == [sent[2]]
                sent += [await _publish(bus, "a", n) for n in range(4, 9)]
                assert await bus.ahistory("a", after=sent[3].id) == sent[4:]
                for lost in (start, sent[2].id):
                    try:
                        raise AssertionError(await bus.ahistory("a", after=lost))
                    except HistoryGone:
                        pass
                    async with bus.subscribe("a", after=lost) as events:
                        assert (await _take(events, 1))[0].data["reason"] == "expired"

        _run(main())

    def test_a_flush_resets_open_streams_and_old_cursors(self) -> None:
        async def main() -> None:
            async with self.bus() as bus:
                before = await _publish(bus, "a", 1)
                async with bus.subscribe("a", after=before.id) as events:
                    await asyncio.to_thread(bus.backend.flush)
                    [reset] = await _take(events, 1)
                    assert (reset.event, reset.data["reason"]) == ("stream-reset", "unknown")
                    event = await _publish(bus, "a", 2)
                    assert await _take(events, 1) == [event]
                async with bus.subscribe("a", after=before.id) as events:
                    assert (await _take(events, 1))[0].event == "stream-reset"
                async with bus.subscribe("a", after=reset.id) as events:
                    assert await _take(events, 1) == [event]

        _run(main())

    def test_what_is_published_during_replay_comes_once_and_in_order(self) -> None:
        async def main() -> None:
            async with self.bus(history_size=2000) as bus:
                first = [await _publish(bus, f"t.{n % 3}", n) for n in range(30)]
                thread = threading.Thread(target=_publish_many, args=(bus.backend, 300))
                thread.start()
                for _ in range(10):
                    async with bus.subscribe("t.*", "t.0", after=first[9].id) as events:
                        got = await _take(events, 60)
                    assert [e.data for e in got] == list(range(10, 70))
                async with bus.subscribe("t.*", after="earliest") as events:
                    assert [e.data for e in await _take(events, 330)] == list(range(330))
                await asyncio.to_thread(thread.join)

        _run(main())

    def test_a_cursor_of_a_quiet_topic_stays_good(self) -> None:
        """A stream's place moves on with the log, not only with its own events."""

        async def main() -> None:
            async with self.bus() as bus, bus.subscribe("quiet", after="earliest"):
                last = [await _publish(bus, "busy", n) for n in range(3)][-1]
                hub = bus.hubs.here()
                await _until(lambda: str(hub.board.tail) == last.id)

        _run(main())

    def test_broken_connections_lose_nothing(self) -> None:
        """At every step of a stream's life: no event lost, none twice, and no reset."""

        async def main() -> None:
            async with self.bus() as bus:
                sent: list[Event] = []

                async def publish() -> None:
                    while True:
                        with contextlib.suppress(BackendUnavailable):
                            sent.append(await _publish(bus, "a", len(sent)))
                            return

                async def cut() -> None:
                    await asyncio.to_thread(self.cut, bus.backend)

                await publish()
                await cut()  # before anybody listens
                async with _patient(bus, "a", sent[0].id) as events:
                    got: list[Event] = []
                    for _ in range(5):
                        await publish()
                        await cut()  # between two events
                        await publish()
                        await publish()
                        got += await _take_to(events, sent[-1])
                        await cut()  # while all is quiet
                        cutting = asyncio.ensure_future(cut())  # while something is under way
                        await publish()
                        await cutting
                        got += await _take_to(events, sent[-1])
                # An event for which there was an error instead of an answer may be there as well.
                returned = {event.id for event in sent}
                assert [event for event in got if event.id in returned] == sent[1:]
                assert len({event.id for event in got}) == len(got)
                assert not [event for event in got if event.event == "stream-reset"]
                await cut()  # before somebody comes back
                async with _patient(bus, "a", got[3].id) as events:
                    assert await _take_to(events, sent[-1]) == got[4:]

        _run(main())


async def _publish(bus: Bus, topic: str, data: Any, event: str | None = None) -> Event:
    published = await bus.apublish(topic, data, event=event, using=None)
    assert published is not None
    return published


def _publish_many(backend: BusBackend, count: int) -> None:
    for n in range(30, 30 + count):
        backend.publish(item(f"t.{n % 3}", n))


@contextlib.asynccontextmanager
async def _patient(bus: Bus, topic: str, after: str) -> AsyncIterator[AsyncEvents]:
    """Subscribe as a client does: again while the bus is not heard."""
    async with contextlib.AsyncExitStack() as stack:
        while True:
            try:
                events = await stack.enter_async_context(bus.subscribe(topic, after=after))
                break
            except BackendUnavailable:
                await asyncio.sleep(0.05)
        yield events


async def _until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "deadline passed"
        await asyncio.sleep(0.01)


async def _take(events: AsyncEvents, count: int) -> Sequence[Event]:
    return await asyncio.wait_for(_next(events, count), DEADLINE)


async def _take_to(events: AsyncEvents, last: Event) -> Sequence[Event]:
    """Return the next events, up to ``last``."""

    async def take() -> Sequence[Event]:
        taken = [await events.__anext__()]
        while taken[-1].id != last.id:
            taken.append(await events.__anext__())
        return taken

    return await asyncio.wait_for(take(), DEADLINE)


async def _next(events: AsyncEvents, count: int) -> Sequence[Event]:
    return [await events.__anext__() for _ in range(count)]


def _run(main: Awaitable[T]) -> T:
    async def limited() -> T:
        return await asyncio.wait_for(main, 3 * DEADLINE)

    return asyncio.run(limited())
