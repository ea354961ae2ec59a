"""The contract of listeners: what they hear, and when they say that they may not have."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

from ..backends.base import BusBackend
from ..events import Record
from .base import ContractBase, Inbox, forget, item, topics


class ListeningContract(ContractBase):
    """Listen."""

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

    def test_a_name_is_heard_after_another_that_looks_alike_is_unwatched(self) -> None:
        """A broker may know both by one subscription: ``a.*`` and ``a.**`` are one glob."""
        cases = [
            ("a.*", "a.**", "a.1"),
            ("a.**", "a.*", "a.1"),
            ("a.**", "a.*", "a.1.2"),
            ("*", "**", "b"),
            ("**", "*", "b"),
            ("a.*.c.**", "a.*.c.*", "a.b.c.d"),
            ("a.1", "a.*", "a.1"),
            ("a.*", "a.1", "a.1"),
        ]

        async def main(backend: BusBackend) -> None:
            for kept, gone, topic in cases:
                async with self.listener(backend, kept, gone) as inbox:
                    await inbox.listener.watch([gone, kept])  # again is harmless
                    await inbox.listener.unwatch([gone])
                    await inbox.listener.unwatch([gone])
                    sent = [await backend.apublish(item(topic, n)) for n in range(2)]
                    await inbox.until(functools.partial(_settled, inbox, sent))
                    assert inbox.of(topic) == sent, (kept, gone)
                    await inbox.listener.watch([gone])
                    await inbox.listener.unwatch([kept])
                    await inbox.listener.unwatch([gone])
                    await inbox.listener.watch([kept])
                    sent.append(await backend.apublish(item(topic, "again")))
                    await inbox.until(functools.partial(_settled, inbox, sent))
                    assert inbox.of(topic) == sent, (kept, gone)

        with self.backend() as backend:
            asyncio.run(main(backend))

    def test_a_listener_that_looks_when_all_has_expired_says_so(self) -> None:
        """As after SIGSTOP, or in a laptop that slept: the events, or that some may be missing."""

        async def main(backend: BusBackend) -> None:
            for names, topic in ((["a"], "a"), (["b.*"], "b.1"), (["**"], "c")):
                listener = backend.listen()
                await listener.watch(names)
                sent = backend.publish(item(topic))
                forget(backend, topic)  # nobody iterates meanwhile
                inbox = Inbox(listener)
                task = asyncio.create_task(inbox.collect())
                try:
                    await inbox.until(functools.partial(_settled, inbox, [sent]))
                    assert inbox.interruptions or inbox.of(topic) == [sent], names
                finally:
                    await listener.aclose()
                    await task

        choices: list[dict[str, dict[str, Any]]] = [{}, {"a": {}, "b.*": {}}]
        for patterns in choices:
            with self.backend(history_ttl=0.3, topics=topics(patterns)) as backend:
                asyncio.run(main(backend))

    def test_flush_interrupts_listeners(self) -> None:
        async def main(backend: BusBackend) -> None:
            async with self.listener(backend, "a") as inbox:
                await backend.apublish(item("a"))
                backend.flush()
                epoch = (await backend.atail()).epoch
                await inbox.until(lambda: inbox.interruptions > 0 or inbox.epoch == epoch)

        with self.backend() as backend:
            asyncio.run(main(backend))

    def test_a_closed_listener_ends(self) -> None:
        async def main(backend: BusBackend) -> None:
            async with self.listener(backend, "a"):
                pass
            await backend.apublish(item("a"))

        with self.backend() as backend:
            asyncio.run(main(backend))


def _settled(inbox: Inbox, sent: list[Record]) -> bool:
    """Has the listener delivered what was sent, or said that it has delivered all?"""
    last = sent[-1]
    return last in inbox.records or any(m.position >= last.position for m in inbox.marks)


def _publish_many(
    backend: BusBackend, topic: str, count: int, sent: list[Record] | None = None
) -> None:
    for n in range(count):
        record = backend.publish(item(topic, n))
        if sent is not None:
            sent.append(record)
