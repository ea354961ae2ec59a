"""The contract of the log: what appending and reading promise."""

from __future__ import annotations

import asyncio
from typing import Any

from ..backends.base import BusBackend
from ..cursor import Cursor
from ..events import Record
from .base import ContractBase, item, wait_until


class LogContract(ContractBase):
    """Append and read."""

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
        with self.backend(history_ttl=0.5) as backend:
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


def _kept(backend: BusBackend, topic: str) -> bool:
    topics = backend.read([topic]).topics
    return topic in topics and bool(topics[topic].records)
