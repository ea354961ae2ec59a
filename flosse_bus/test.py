"""The contract of a backend as a test class: subclass it, override ``make_backend``, run pytest.

    class TestMyBackend(BackendContract):
        def make_backend(self, config):
            return MyBackend(config, url="...")

Each test gets a backend of its own whose log nobody else writes to.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from .backends.base import BusBackend, Interruption, Listener
from .conf import BusConfig, load
from .cursor import Cursor
from .events import Draft, Record, draft

#: Seconds that anything here may take.
DEADLINE = 20.0


def item(topic: str, data: Any = None, event: str | None = None) -> Draft:
    """Return what ``bus.publish`` would hand to a backend."""
    return draft(topic, data, event, max_size=1 << 21)


class BackendContract:
    """What every backend promises. See :mod:`flosse_bus.backends.base`."""

    def make_backend(self, config: BusConfig) -> BusBackend:
        """Return a backend with an empty log. Override it."""
        raise NotImplementedError("make_backend() must be overridden")  # because it is the point

    @contextlib.contextmanager
    def backend(self, **settings: Any) -> Iterator[BusBackend]:
        """Make a backend with some settings (fields of ``BusConfig``) changed."""
        yield self.make_backend(dataclasses.replace(load("default"), **settings))

    @contextlib.asynccontextmanager
    async def listener(self, backend: BusBackend, *names: str) -> AsyncIterator[Inbox]:
        """Listen to topics and collect what comes."""
        inbox = Inbox(backend.listen())
        await inbox.listener.watch(names)
        task = asyncio.create_task(inbox.collect())
        try:
            yield inbox
        finally:
            await inbox.listener.aclose()
            await asyncio.wait_for(task, DEADLINE)

    # Appending

    def test_positions_rise_over_all_topics(self) -> None:
        with self.backend() as backend:
            records = [backend.publish(item(topic, n)) for n, topic in enumerate("abcab")]
        positions = [record.position for record in records]
        assert positions == sorted(set(positions))
        assert positions[0] > 0
        assert len({record.epoch for record in records}) == 1

    def test_previous_links_the_events_of_a_topic(self) -> None:
        with self.backend() as backend:
            first, other, second = (backend.publish(item(topic)) for topic in "aba")
        assert (first.previous, other.previous, second.previous) == (0, 0, first.position)

    def test_tail_is_the_last_position(self) -> None:
        with self.backend() as backend:
            assert backend.tail().position == 0
            last = [backend.publish(item("a")), backend.publish(item("b"))][-1]
            assert backend.tail() == last.cursor

    def test_what_is_published_comes_back(self) -> None:
        payloads: list[Any] = [
            "", "plain", "two\nlines\r\nand\rmore", "\u2028 \ufeff \U0001f600 \x00 \x7f",
            "x" * (1 << 20), '{"not": "decoded"}',
            None, 0, 1.5, [], {}, {"ü": ["\u2029", {"deep": [True, None]}]},
        ]  # fmt: skip
        with self.backend(history_size=50, max_event_size=1 << 21) as backend:
            for payload in payloads:
                backend.publish(item("a", payload, "näme"))
            kept = backend.read(["a"]).topics["a"].records
        assert [record.to_event().data for record in kept] == payloads
        assert {record.event for record in kept} == {"näme"}

    def test_publish_from_an_event_loop(self) -> None:
        async def main(backend: BusBackend) -> tuple[Record, Cursor]:
            return await backend.apublish(item("a", 1)), await backend.atail()

        with self.backend() as backend:
            record, tail = asyncio.run(main(backend))
            assert tail == record.cursor
            assert asyncio.run(backend.aread(["a"])).topics["a"].records == (record,)

    # Reading

    def test_reading_finds_topics_and_patterns(self) -> None:
        with self.backend() as backend:
            for topic in ("a", "a.b", "a.b.c", "d"):
                backend.publish(item(topic))
            table = {
                ("a",): {"a"},
                ("a", "d", "gone"): {"a", "d"},
                ("a.*",): {"a.b"},
                ("a.**",): {"a.b", "a.b.c"},
                ("*",): {"a", "d"},
                ("**",): {"a", "a.b", "a.b.c", "d"},
                ("a.*.c", "d"): {"a.b.c", "d"},
            }
            for names, expected in table.items():
                assert set(backend.read(names).topics) == expected, names

    def test_the_ring_keeps_the_last_events_and_says_what_is_gone(self) -> None:
        with self.backend(history_size=3) as backend:
            records = [backend.publish(item("a", n)) for n in range(5)]
            other = backend.publish(item("b"))
            snapshot = backend.read(["a", "b"])
        assert snapshot.topics["a"].records == tuple(records[2:])
        assert snapshot.topics["a"].evicted == records[1].position
        assert snapshot.topics["b"].evicted < other.position
        assert snapshot.tail == other.cursor

    def test_events_expire_and_are_accounted_for(self) -> None:
        with self.backend(history_ttl=0.2) as backend:
            record = backend.publish(item("a"))
            assert backend.read(["a"]).topics["a"].records == (record,)
            wait_until(lambda: not _kept(backend, "a"))
            snapshot = backend.read(["a"])
            gone = snapshot.topics["a"].evicted if "a" in snapshot.topics else snapshot.forgotten
            assert gone == record.position
            # The topic begins anew, and what it lost stays known.
            again = backend.publish(item("a"))
            history = backend.read(["a"]).topics["a"]
            assert history.records == (again,)
            assert record.position <= history.evicted < again.position

    def test_flush_begins_a_new_epoch(self) -> None:
        with self.backend() as backend:
            before = backend.publish(item("a")).cursor
            backend.flush()
            snapshot = backend.read(["a"])
            assert snapshot.tail.epoch != before.epoch
            assert "a" not in snapshot.topics
            assert backend.publish(item("a")).epoch == snapshot.tail.epoch

    # Listening

    def test_a_listener_gets_what_is_published_in_order(self) -> None:
        async def main(backend: BusBackend) -> None:
            async with self.listener(backend, "a", "b.*") as inbox:
                sent = [await backend.apublish(item(topic)) for topic in ("a", "b.1", "b.2", "a")]
                await inbox.until(lambda: len(inbox.of("a", "b.1", "b.2")) == 4)
                assert inbox.of("a", "b.1", "b.2") == sent

        with self.backend() as backend:
            asyncio.run(main(backend))

    def test_a_listener_hears_other_threads(self) -> None:
        async def main(backend: BusBackend) -> None:
            async with self.listener(backend, "a") as inbox:
                threads = [
                    threading.Thread(target=_publish_many, args=(backend, "a", 200))
                    for _ in range(4)
                ]
                for thread in threads:
                    thread.start()
                await inbox.until(lambda: len(inbox.of("a")) == 800)
                for thread in threads:
                    thread.join()
            positions = [record.position for record in inbox.of("a")]
            assert positions == sorted(set(positions))

        with self.backend() as backend:
            asyncio.run(main(backend))

    def test_read_and_listen_leave_no_gap(self) -> None:
        async def main(backend: BusBackend) -> None:
            sent: list[Record] = []
            thread = threading.Thread(target=_publish_many, args=(backend, "a", 500, sent))
            thread.start()
            async with self.listener(backend, "a") as inbox:
                snapshot = await backend.aread(["a"])
                read = list(snapshot.topics["a"].records) if "a" in snapshot.topics else []
                await asyncio.to_thread(thread.join)
                await inbox.until(
                    lambda: (
                        {r.position for r in (*read, *inbox.of("a"))} == {r.position for r in sent}
                    )
                )

        with self.backend() as backend:
            asyncio.run(main(backend))

    def test_flush_interrupts_listeners(self) -> None:
        async def main(backend: BusBackend) -> None:
            async with self.listener(backend, "a") as inbox:
                await backend.apublish(item("a"))
                backend.flush()
                await inbox.until(lambda: inbox.interruptions > 0)

        with self.backend() as backend:
            asyncio.run(main(backend))

    def test_a_closed_listener_ends(self) -> None:
        async def main(backend: BusBackend) -> None:
            async with self.listener(backend, "a"):
                pass
            await backend.apublish(item("a"))

        with self.backend() as backend:
            asyncio.run(main(backend))


class Inbox:
    """What a listener has delivered."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.records: list[Record] = []
        self.interruptions = 0

    async def collect(self) -> None:
        async for batch in self.listener:
            if isinstance(batch, Interruption):
                self.interruptions += 1
            else:
                self.records += batch

    def of(self, *topics: str) -> list[Record]:
        return [record for record in self.records if record.topic in topics]

    async def until(self, condition: Any) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, "deadline passed"
            await asyncio.sleep(0.005)


def wait_until(condition: Any, deadline: float = DEADLINE) -> None:
    """Wait for a condition, or fail."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "deadline passed"
        time.sleep(0.005)


def _kept(backend: BusBackend, topic: str) -> bool:
    topics = backend.read([topic]).topics
    return topic in topics and bool(topics[topic].records)


def _publish_many(
    backend: BusBackend, topic: str, count: int, sent: list[Record] | None = None
) -> None:
    for n in range(count):
        record = backend.publish(item(topic, n))
        if sent is not None:
            sent.append(record)
