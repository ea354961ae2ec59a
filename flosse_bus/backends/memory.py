"""The log of one process, in its memory: the default, and exact as long as the process lives."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.checks import CheckMessage, Warning

from ..cursor import Cursor, new_epoch
from ..events import Draft, Record
from ..ring import Ring
from ..topics import compile_pattern, covered, is_pattern
from .base import BusBackend, Heard, Interruption, Listener, Snapshot, TopicHistory

if TYPE_CHECKING:
    from ..conf import BusConfig

#: Records that may wait for a busy event loop. Beyond it the loop reads the rings instead.
MAX_INBOX = 10_000


class MemoryBackend(BusBackend):
    """Publish from any thread, deliver to any event loop of this process."""

    atomic_batches = True
    keeps_keys = True

    def __init__(self, config: BusConfig) -> None:
        super().__init__(config)
        self._begin()
        # A child has a copy of the rings but not of what the parent publishes next: two logs
        # with one epoch would vouch for each other's positions. It starts a log of its own.
        this = weakref.ref(self)
        if sys.platform != "win32":
            os.register_at_fork(after_in_child=lambda: _begin_again(this))

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[MemoryListener] = []
        self._deaf = False
        self._new_log()

    def _new_log(self) -> None:
        self._epoch = new_epoch()
        self._position = 0
        self._latest = 0.0
        # In the order in which dead ones are looked for.
        self._rings: OrderedDict[str, Ring[Record]] = OrderedDict()
        # The highest position that a topic may have lost of which nothing is kept, by class.
        self._forgotten: dict[int, int] = {}
        # Oldest first, as all are kept for the same time.
        self._keys: OrderedDict[str, Record] = OrderedDict()

    def publish(self, draft: Draft) -> Record:
        with self._lock:
            return self._append(draft)

    async def apublish(self, draft: Draft) -> Record:
        return self.publish(draft)

    def publish_many(self, drafts: Sequence[Draft]) -> list[Record]:
        with self._lock:
            return [self._append(draft) for draft in drafts]

    async def apublish_many(self, drafts: Sequence[Draft]) -> list[Record]:
        return self.publish_many(drafts)

    def _append(self, draft: Draft) -> Record:
        now = time.time()
        if now < self._latest:  # the clock was set back
            for one in self._rings.values():
                one.date(now)
        self._latest = now
        if draft.key is not None:
            self._forget_keys(now)
            known = self._keys.get(draft.key)
            if known is not None:
                return known
        ring = self._rings.get(draft.topic)
        if ring is None:
            self._forget_one(now)
            ring = self._rings[draft.topic] = self._new_ring(draft.topic)
            previous = 0
        else:
            previous = ring.head
        self._position += 1
        record = draft.placed(
            epoch=self._epoch,
            position=self._position,
            previous=previous,
            published_at=now,
        )
        ring.append(record)
        ring.expire(now)
        if draft.key is not None:
            self._keys[draft.key] = record
        self._forget_one(now)
        for listener in self._listeners:
            listener.put(record)
        if self._deaf:
            self._listeners = [one for one in self._listeners if not one.closed]
            self._deaf = False
        return record

    def tail(self) -> Cursor:
        with self._lock:
            return Cursor(self._epoch, self._position)

    async def atail(self) -> Cursor:
        return self.tail()

    def read(self, names: Iterable[str]) -> Snapshot:
        names = list(names)
        patterns = [compile_pattern(name) for name in names if is_pattern(name)]
        with self._lock:
            topics = {name for name in names if name in self._rings}
            if patterns:
                topics.update(topic for topic in self._rings if covered(topic, patterns))
            return Snapshot(
                tail=Cursor(self._epoch, self._position),
                topics={topic: self._history(topic) for topic in topics},
                # Without TOPICS all are of one class.
                forgotten=0 if self.config.topics else self._forgotten.get(0, 0),
                forgotten_by=dict(self._forgotten) if self.config.topics else {},
            )

    async def aread(self, names: Iterable[str]) -> Snapshot:
        return self.read(names)

    def listen(self) -> MemoryListener:
        return MemoryListener(self)

    def flush(self) -> None:
        with self._lock:
            self._new_log()
            for listener in self._listeners:
                listener.interrupt()

    def check(self) -> list[CheckMessage]:
        if settings.DEBUG:
            return []
        return [
            Warning(
                f"FLOSSE_BUS[{self.config.alias!r}]: MemoryBackend reaches only the streams of the "
                "process that publishes.",
                hint="Run exactly one server process and publish in it, or choose a backend that "
                "crosses processes. Silence it with SILENCED_SYSTEM_CHECKS when that is so.",
                id="flosse_bus.W001",
            )
        ]

    def attach(self, listener: MemoryListener) -> None:
        with self._lock:
            self._listeners.append(listener)

    def detach(self, listener: MemoryListener) -> None:
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def notice_deaf(self) -> None:
        """A listener's loop is gone. Called under the lock."""
        self._deaf = True

    def take_inbox(self, listener: MemoryListener) -> list[Record] | Interruption:
        with self._lock:
            return listener.take()

    def _new_ring(self, topic: str) -> Ring[Record]:
        kept = self.config.history_of(topic)
        # A topic that was forgotten may come back: it has lost at most what its class has.
        lost = self._forgotten.get(self.config.class_of(topic), 0)
        return Ring(size=kept.size, ttl=kept.ttl, max_bytes=kept.max_bytes, evicted=lost)

    def _history(self, topic: str) -> TopicHistory:
        ring = self._rings[topic]
        ring.expire(time.time())
        return TopicHistory(records=tuple(ring.after(0)), evicted=ring.evicted)

    def _forget_one(self, now: float) -> None:
        # All in turn, so that none that lives on is in the way of those behind it. One look per
        # event and one more per new topic keep up.
        if not self._rings:
            return
        topic, ring = next(iter(self._rings.items()))
        ring.expire(now)
        if len(ring):
            self._rings.move_to_end(topic)
            return
        del self._rings[topic]
        number = self.config.class_of(topic)
        self._forgotten[number] = max(self._forgotten.get(number, 0), ring.evicted)

    def _forget_keys(self, now: float) -> None:
        oldest = now - self.config.key_ttl
        while self._keys:
            key, record = next(iter(self._keys.items()))
            if record.published_at >= oldest:
                return
            del self._keys[key]


def _begin_again(reference: weakref.ref[MemoryBackend]) -> None:
    backend = reference()
    if backend is not None:
        backend._begin()


class MemoryListener(Listener):
    """An inbox that publishers fill under the backend's lock and one event loop empties.

    It hears of every topic: picking in the hub costs less than keeping lists here.
    """

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._inbox: list[Record] = []
        self._interrupted = False
        self._called = False
        self.closed = False
        backend.attach(self)

    async def watch(self, names: Iterable[str]) -> None:
        pass

    async def unwatch(self, names: Iterable[str]) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[Heard]:
        while True:
            await self._ready.wait()
            self._ready.clear()
            if self.closed:
                return
            yield self._backend.take_inbox(self)

    async def aclose(self) -> None:
        self._backend.detach(self)
        self.closed = True
        self._ready.set()

    def put(self, record: Record) -> None:
        """Called under the backend's lock, in any thread."""
        if self._interrupted:
            return
        if len(self._inbox) >= MAX_INBOX:
            self.interrupt()
            return
        self._inbox.append(record)
        self._call()

    def interrupt(self) -> None:
        """Called under the backend's lock, in any thread."""
        self._inbox = []
        self._interrupted = True
        self._call()

    def take(self) -> list[Record] | Interruption:
        """Called under the backend's lock, in the loop's thread."""
        self._called = False
        if self._interrupted:
            self._interrupted = False
            return Interruption()
        inbox, self._inbox = self._inbox, []
        return inbox

    def _call(self) -> None:
        if self._called:
            return
        self._called = True
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:  # the loop was closed without closing us: nobody listens any more
            self.closed = True
            self._inbox = []
            self._backend.notice_deaf()
