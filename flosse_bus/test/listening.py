"""The contract of listeners: what they hear, and when they say that they may not have."""

from __future__ import annotations

import asyncio
import threading

from ..backends.base import BusBackend
from ..events import Record
from .base import ContractBase, item


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


def _publish_many(
    backend: BusBackend, topic: str, count: int, sent: list[Record] | None = None
) -> None:
    for n in range(count):
        record = backend.publish(item(topic, n))
        if sent is not None:
            sent.append(record)
