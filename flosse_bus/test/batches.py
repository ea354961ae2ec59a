"""The contract of ``publish_many`` and of idempotency keys."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from ..backends.base import BusBackend
from ..events import Record
from .base import DEADLINE, ContractBase, item, wait_until


class BatchContract(ContractBase):
    """Append many, and append once. What a backend says it cannot do is not asked of it."""

    # Many

    def test_many_events_are_appended_in_order(self) -> None:
        with self.backend() as backend:
            first = backend.publish(item("a", "before"))
            sent = [item("a", "text", "e"), item("b", {"ü": '\\"'}), item("a", None, 'na"me\\')]
            records = backend.publish_many([*sent, item("b", "NULL")])
            positions = [record.position for record in records]
            assert positions == list(range(first.position + 1, first.position + 5))
            assert [record.previous for record in records] == [
                first.position, 0, positions[0], positions[1],
            ]  # fmt: skip
            snapshot = backend.read(["a", "b"])
            assert snapshot.topics["a"].records == (first, records[0], records[2])
            assert snapshot.topics["b"].records == (records[1], records[3])
            assert snapshot.tail == records[3].cursor
            assert [r.to_event().data for r in records] == ["text", {"ü": '\\"'}, None, "NULL"]
            assert [record.event for record in records] == ["e", None, 'na"me\\', None]
            assert backend.publish(item("a")).previous == positions[2]

    def test_many_events_are_bounded_by_the_history(self) -> None:
        with self.backend(history_size=5) as backend:
            backend.publish_many([item("a", n) for n in range(3)])
            records = backend.publish_many(
                [item(topic, n) for n in range(20) for topic in ("a", "b")]
            )
            snapshot = backend.read(["**"])
            for start, topic in enumerate(("a", "b")):
                mine = records[start::2]
                assert snapshot.topics[topic].records == tuple(mine[-5:])
                assert snapshot.topics[topic].evicted == mine[-6].position

    def test_a_listener_gets_many_in_order(self) -> None:
        async def main(backend: BusBackend) -> None:
            async with self.listener(backend, "a", "b.*") as inbox:
                sent = await backend.apublish_many(
                    [item(topic, n) for n in range(50) for topic in ("a", "b.1", "c")]
                )
                wanted = [record for record in sent if record.topic != "c"]
                await inbox.until(lambda: len(inbox.of("a", "b.1")) == len(wanted))
                assert inbox.of("a", "b.1") == wanted

        with self.backend() as backend:
            asyncio.run(main(backend))

    def test_nothing_comes_between_many(self) -> None:
        with self.backend(history_size=1000) as backend:
            if not backend.atomic_batches:
                return
            sent: dict[int, list[list[Record]]] = {}

            def write(writer: int) -> None:
                sent[writer] = [
                    backend.publish_many([item("a", [writer, n, k]) for k in range(10)])
                    for n in range(10)
                ]

            _in_threads(write, 4)
            for batch in (batch for batches in sent.values() for batch in batches):
                first = batch[0].position
                assert [r.position for r in batch] == list(range(first, first + 10))
            kept = backend.read(["a"]).topics["a"].records
            assert {r.cursor for r in kept} == {
                r.cursor for batches in sent.values() for batch in batches for r in batch
            }

    # Once

    def test_a_key_is_published_with_once(self) -> None:
        with self.backend() as backend:
            if not backend.keeps_keys:
                return
            first = backend.publish(item("a", {"n": 1}, "e", key="k"))
            other = backend.publish(item("a", 2, key="k2"))
            assert backend.publish(item("a", {"n": 1}, "e", key="k")) == first
            assert backend.publish(item("b", "different", key="k")) == first
            assert asyncio.run(backend.apublish(item("b", key="k"))) == first
            assert backend.read(["a", "b"]).topics["a"].records == (first, other)
            assert backend.tail() == other.cursor

    def test_keys_among_many(self) -> None:
        with self.backend() as backend:
            if not backend.keeps_keys:
                return
            first = backend.publish(item("a", 1, key="k"))
            records = backend.publish_many(
                [item("a", 2), item("b", 3, key="k"), item("a", 4, key="new"), item("a", key="new")]
            )
            assert [record.position - first.position for record in records] == [1, 0, 2, 2]
            assert records[1] == first
            assert records[3] == records[2]
            assert backend.publish_many([item("a", key="k"), item("b", key="new")]) == [
                first, records[2],
            ]  # fmt: skip
            assert backend.tail() == records[2].cursor

    def test_a_key_outlives_its_event_but_not_its_time(self) -> None:
        with self.backend(history_size=1, history_ttl=1) as backend:
            if not backend.keeps_keys:
                return
            first = backend.publish(item("a", 1, key="k"))
            backend.publish(item("a", 2))
            assert backend.publish(item("a", 1, key="k")) == first
            assert [r.to_event().data for r in backend.read(["a"]).topics["a"].records] == [2]
            again: list[Record] = []

            def appended() -> bool:
                again[:] = [backend.publish(item("a", 3, key="k"))]
                return again[0] != first

            wait_until(appended)
            assert again[0].to_event().data == 3
            assert again[0].position > first.position + 1

    def test_a_new_log_knows_no_keys(self) -> None:
        with self.backend() as backend:
            if not backend.keeps_keys:
                return
            first = backend.publish(item("a", 1, key="k"))
            backend.flush()
            again = backend.publish(item("a", 1, key="k"))
            assert again.epoch != first.epoch
            assert backend.read(["a"]).topics["a"].records == (again,)

    def test_publishers_that_have_one_key_append_one_event(self) -> None:
        with self.backend() as backend:
            if not backend.keeps_keys:
                return
            got: dict[int, list[Record]] = {}

            def write(writer: int) -> None:
                got[writer] = [
                    backend.publish(item("a", [writer, n], key=f"k{n}"))
                    if writer % 2
                    else backend.publish_many([item("a", [writer, n], key=f"k{n}")])[0]
                    for n in range(20)
                ]

            _in_threads(write, 4)
            kept = backend.read(["a"]).topics["a"].records
            assert len(kept) == 20
            for n in range(20):
                assert {r.cursor for r in (got[writer][n] for writer in range(4))} == {
                    kept[n].cursor
                }


def _in_threads(work: Callable[[int], Any], count: int) -> None:
    failed: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001  # because the test must see it
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not failed, failed
