from __future__ import annotations

import asyncio
import collections
import os
import time

from flosse_bus.backends import memory
from flosse_bus.backends.base import BusBackend
from flosse_bus.backends.memory import MemoryBackend
from flosse_bus.test import BackendContract, item, wait_until
from flosse_bus.test.base import topics


class TestMemoryBackend(BackendContract):
    forgets_by_class = True

    def make_backend(self, config):
        return MemoryBackend(config)

    def test_a_forked_child_has_a_log_of_its_own(self):
        with self.backend() as backend:
            before = backend.publish(item("a")).cursor
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:  # pragma: no cover - because it is another process
                os.write(
                    write, f"{backend.tail().epoch} {backend.publish(item('a')).position}".encode()
                )
                os._exit(0)
            os.waitpid(pid, 0)
            epoch, position = os.read(read, 100).decode().split()
            os.close(read)
            os.close(write)
            assert epoch != before.epoch
            assert int(position) == 1
            assert backend.publish(item("a")).position == 2

    def test_a_busy_loop_is_interrupted_instead_of_hoarding(self, monkeypatch):
        monkeypatch.setattr(memory, "MAX_INBOX", 5)

        async def main(backend):
            async with self.listener(backend, "a") as inbox:
                for n in range(20):  # without an await: the loop has no chance to empty its inbox
                    backend.publish(item("a", n))
                await inbox.until(lambda: inbox.interruptions == 1)
                assert inbox.records == []
                last = backend.publish(item("a"))
                await inbox.until(lambda: inbox.records == [last])

        with self.backend() as backend:
            asyncio.run(main(backend))

    def test_dead_topics_are_forgotten(self):
        with self.backend(history_ttl=0.05) as backend:
            for n in range(50):
                backend.publish(item(f"dead.{n}"))
            wait_until(lambda: not any(h.records for h in backend.read(["**"]).topics.values()))
            for n in range(60):
                backend.publish(item(f"living.{n % 2}"))
            snapshot = backend.read(["**"])
            assert set(snapshot.topics) <= {"living.0", "living.1"}
            assert snapshot.forgotten >= 50

    def test_new_topics_do_not_gather(self):
        patterns = topics({"always.*": {"ttl": None}})
        with self.backend(history_ttl=0.02, topics=patterns) as backend:
            for n in range(50):
                backend.publish(item(f"always.{n}"))
            most = living = 0
            times = collections.deque()  # when those that live were published
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                times.append(time.monotonic())
                backend.publish(item(f"new.{times[-1]}"))
                while times[0] < times[-1] - 0.02:
                    times.popleft()
                living = max(living, len(times))
                most = max(most, len(backend._rings))
            assert most < 3 * (living + 50)

    def test_a_clock_that_was_ahead_does_not_stop_expiry(self, monkeypatch):
        clock = [10_000.0]
        monkeypatch.setattr(memory.time, "time", lambda: clock[0])
        with self.backend(history_ttl=60) as backend:
            for topic in ("a", "b"):
                backend.publish(item(topic))
            clock[0] = 100.0
            last = backend.publish(item("a"))
            clock[0] = 161.0
            backend.publish(item("busy"))
            topics = backend.read(["a", "b"]).topics
            assert not any(history.records for history in topics.values())
            clock[0] = 155.0
            assert backend.read(["a"]).forgotten >= last.position

    def test_a_listener_whose_loop_is_gone_does_no_harm(self):
        async def forget_to_close(backend):
            listener = backend.listen()
            await listener.watch(["a"])
            return listener

        with self.backend() as backend:
            listener = asyncio.run(forget_to_close(backend))
            backend.publish(item("a"))
            backend.publish(item("a"))
            asyncio.run(listener.aclose())


class SyncOnly(MemoryBackend):
    """A backend that brings no async methods of its own."""

    apublish = BusBackend.apublish
    atail = BusBackend.atail
    aread = BusBackend.aread


class TestAsyncTwinsByDefault(BackendContract):
    def make_backend(self, config):
        return SyncOnly(config)

    def test_they_have_nothing_to_complain_of(self):
        with self.backend() as backend:
            assert BusBackend.check(backend) == []
