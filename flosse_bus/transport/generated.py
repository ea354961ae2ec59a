"""Streams of generator views: a blocking iterator of bytes for WSGI, an asynchronous one for ASGI.

The reader asks the producer for one frame at a time, and waits for it with the heartbeat as its
patience.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Mapping
from contextlib import closing
from typing import Any

from ..access import Rechecked
from ..asking import REFUSED
from ..background import LoopThread
from ..bus import buses
from ..conf import DEFAULT_ALIAS
from ..refusals import encode_refusal
from ..wire import COMMENT
from . import opened, shutdown, slots
from .peer import Peer, pieces
from .producers import Closable, Producer, TaskProducer, ThreadProducer
from .steps import Steps
from .stock import release_connections
from .stream import WITHDRAWN
from .surroundings import Surroundings
from .warden import Warden

logger = logging.getLogger("flosse_bus")

#: Bytes that are written at once.
PIECE = 32_768
#: Seconds that a generator is given to close before its response ends without it.
FAREWELL = 0.5


class GeneratorStream:
    """One stream as its view has described it, before and while it runs.

    ``content`` is what the view has returned: an iterator, or an asynchronous one. ``retry`` is in
    milliseconds, ``heartbeat`` in seconds of silence, ``client`` whose it is.

    Raises:
        TooManyStreams: it needs a thread, and there is none left for this client.
    """

    def __init__(
        self,
        content: Any,
        *,
        label: str,
        retry: int | None,
        heartbeat: float | None,
        environ: Mapping[str, Any] | None,
        client: Hashable,
        access: Rechecked | None = None,
        session_key: str | None = None,
    ) -> None:
        self.label = label
        self.heartbeat = heartbeat
        #: Under WSGI only.
        self.environ = environ
        self.steps = Steps(content, label, retry)
        #: May it run in the thread of its request?
        self.inline = environ is not None and heartbeat is None and not self.steps.is_async
        self.slot = None if self.inline or self.steps.is_async else slots.take(client)
        self.surroundings = Surroundings()
        self.send_timeout = buses[DEFAULT_ALIAS].config.send_timeout
        #: Why it has ended.
        self.reason: str | None = None
        self.events = 0
        self._lock = threading.RLock()
        self._began: float | None = None
        self._closed = False
        self._producer: Closable | None = None
        self._wake: Callable[[], None] | None = None
        #: Where it is ended, once it has begun.
        self.loop: asyncio.AbstractEventLoop | None = None
        self._warden = None if access is None else Warden(self, access, self.surroundings.context)
        #: Whose logging out ends it.
        self.session_key = session_key
        opened.enroll(self)

    def begin(
        self, loop: asyncio.AbstractEventLoop, producer: Closable | None, wake: Callable[[], None]
    ) -> None:
        """It is read from now on; ``wake`` has its reader look at :attr:`reason`."""
        self.loop = loop
        self._producer = producer
        self._wake = wake
        self._began = time.monotonic()
        opened.add(self)
        if self._warden is not None:
            self._warden.begin(loop)
        logger.info("stream opened by %s", self.label)
        ending = buses[DEFAULT_ALIAS].hubs.ending
        if ending is not None:
            self.end(ending)
        elif self.reason is not None:  # ended before it could begin
            wake()

    async def may_go_on(self) -> bool:
        """May what it has yielded be sent? In its loop."""
        return self._warden is None or await self._warden.allows()

    def may_go_on_here(self) -> bool:
        """The same in a thread, which waits."""
        return self._warden is None or self._warden.allows_here()

    @property
    def farewell(self) -> bytes:
        """What must still be said when it has ended: that its client may not read it any more."""
        return encode_refusal(REFUSED) if self.reason == WITHDRAWN else b""

    def end(self, reason: str) -> None:
        """Have its reader end the response. Any thread."""
        if self.reason is None:
            self.reason = reason
        self.surroundings.interrupts.interrupt()
        if self._warden is not None:
            self._warden.close()
        if self._wake is not None:
            self._wake()

    def finish(self) -> None:
        """The generator has come to its end, one way or another."""
        self.end("error" if self.steps.failed else "finished")

    @property
    def stopping(self) -> bool:
        """Is it being ended because the server stops?"""
        return self.reason == "shutdown"

    give_up = end

    def close(self) -> None:
        """Close the generator, and give its thread up. Any thread; again is harmless."""
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        opened.strike(self)
        if self._warden is not None:
            self._warden.close()
        self.surroundings.interrupts.interrupt()
        if self._producer is not None:
            self._producer.close()
        elif not self.steps.is_async:
            self.steps.close()
        if self._producer is None and self.slot is not None:
            self.slot.release()
        if self._began is None:
            return
        opened.discard(self)
        logger.info(
            "stream closed after %.1f s and %d events (%s) by %s",
            time.monotonic() - self._began,
            self.events,
            self.reason or "client gone",
            self.label,
        )


class _Answer:
    """In an event loop: the next frame, or that there will be none."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[bytes | None] | None = None
        self.over = self._loop.create_future()

    def expect(self) -> asyncio.Future[bytes | None]:
        self._future = self._loop.create_future()
        return self._future

    def put(self, frame: bytes | None) -> None:
        """The producer delivers, ``None`` when it has come to its end."""
        if frame is None and not self.over.done():
            self.over.set_result(None)
        if self._future is not None and not self._future.done():
            self._future.set_result(frame)

    def put_threadsafe(self, frame: bytes | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self.put, frame)

    def wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


async def aframes(stream: GeneratorStream) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a stream in the running event loop."""
    shutdown.install()
    answer = _Answer()
    producer: Producer
    if stream.slot is None:
        producer = TaskProducer(stream.steps, stream.surroundings, answer.put)
    else:
        producer = ThreadProducer(
            stream.steps, stream.surroundings, answer.put_threadsafe, stream.slot
        )
    stream.begin(asyncio.get_running_loop(), producer, answer.wake)
    try:
        while stream.reason is None:
            future = answer.expect()
            producer.ask()
            if stream.heartbeat is not None:
                while not (await asyncio.wait((future,), timeout=stream.heartbeat))[0]:
                    yield COMMENT
            frame = await future
            if frame is None or not await stream.may_go_on():
                break
            stream.events += 1
            for number, piece in enumerate(pieces(frame, PIECE)):
                if number:
                    # Others have small events to send, and who goes meanwhile shall be noticed.
                    await asyncio.sleep(0)
                    if stream.reason is not None:
                        return
                yield piece
        stream.finish()
        if stream.farewell:
            yield stream.farewell
    finally:
        stream.close()
        if not answer.over.done():
            await asyncio.wait((answer.over,), timeout=FAREWELL)


def frames(stream: GeneratorStream) -> Generator[bytes, None, None]:
    """Yield the bytes of a stream, blocking the thread in between."""
    shutdown.install()
    release_connections()
    thread = _background()
    environ = stream.environ or {}
    chunks = (_inline if stream.inline else _produced)(stream, thread)
    with closing(Peer(thread, stream, environ, stream.send_timeout)) as peer, closing(chunks):
        for chunk in chunks:
            for piece in pieces(chunk, PIECE):
                with peer:
                    yield piece


def _inline(stream: GeneratorStream, thread: LoopThread) -> Generator[bytes, None, None]:
    """Run the generator right here."""
    run = stream.surroundings.context.run
    stream.begin(thread.loop, None, lambda: None)
    try:
        run(stream.surroundings.enter)
        while stream.reason is None:
            frame = run(stream.steps.step)
            if frame is None or not stream.may_go_on_here():
                break
            stream.events += 1
            yield frame
        stream.finish()
        if stream.farewell:
            yield stream.farewell
    finally:
        run(stream.steps.close)
        stream.close()


def _produced(stream: GeneratorStream, thread: LoopThread) -> Generator[bytes, None, None]:
    """Run the generator elsewhere, so that this thread can send heartbeats meanwhile."""
    box: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    over = threading.Event()

    def deliver(frame: bytes | None) -> None:
        if frame is None:
            over.set()
        box.put(frame)

    producer: Producer
    if stream.slot is None:
        producer = thread.run(_make(stream, deliver))
    else:
        producer = ThreadProducer(stream.steps, stream.surroundings, deliver, stream.slot)
    stream.begin(thread.loop, producer, lambda: box.put(None))
    try:
        while stream.reason is None:
            producer.ask()
            frame = yield from _patiently(box, stream.heartbeat)
            if frame is None or not stream.may_go_on_here():
                break
            stream.events += 1
            yield frame
        stream.finish()
        if stream.farewell:
            yield stream.farewell
    finally:
        stream.close()
        over.wait(FAREWELL)


def _patiently(
    box: queue.SimpleQueue[bytes | None], heartbeat: float | None
) -> Generator[bytes, None, bytes | None]:
    while True:
        try:
            return box.get(timeout=heartbeat)
        except queue.Empty:
            yield COMMENT


async def _make(stream: GeneratorStream, deliver: Callable[[bytes | None], None]) -> TaskProducer:
    return TaskProducer(stream.steps, stream.surroundings, deliver)


_lock = threading.Lock()
_thread: LoopThread | None = None


def _background() -> LoopThread:
    """Return the thread that runs async generators under WSGI, and watches their clients."""
    global _thread
    with _lock:
        if _thread is None:
            _thread = LoopThread("flosse_bus streams")
        return _thread


def _forget() -> None:
    """A forked child has none of its parent's threads."""
    global _lock, _thread
    _lock = threading.Lock()
    _thread = None


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget)
