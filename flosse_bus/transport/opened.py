"""The generator streams that are open in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from typing import Protocol


class Endable(Protocol):
    """A stream: ``loop`` is where it is ended, ``None`` before it runs."""

    loop: asyncio.AbstractEventLoop | None
    #: Why it ends.
    reason: str | None
    session_key: str | None

    def end(self, reason: str) -> None: ...


_streams: set[Endable] = set()
#: Those of a session, from when their view has made them. The lock is reentrant: the garbage
#: collector may find a response that takes one out.
_of_sessions: set[Endable] = set()
_lock = threading.RLock()

add, discard = _streams.add, _streams.discard


def count() -> int:
    """Return how many there are."""
    return len(_streams)


def end_all(reason: str) -> None:
    """End them. Any thread, signal handlers included."""
    for stream in _streams.copy():
        _end(stream, reason)


def enroll(stream: Endable) -> None:
    """Have it end when its session logs out, if it has one."""
    if stream.session_key is not None:
        with _lock:
            _of_sessions.add(stream)


def strike(stream: Endable) -> None:
    """It is over. Again is harmless."""
    with _lock:
        _of_sessions.discard(stream)


def end_session(session_key: str, reason: str) -> None:
    """End the streams of a session, also those that are yet to begin. Any thread."""
    with _lock:
        found = [stream for stream in _of_sessions if stream.session_key == session_key]
    for stream in found:
        if stream.reason is None:
            stream.reason = reason  # first: whoever begins one looks at it when it has a loop
        _end(stream, reason)


def _end(stream: Endable, reason: str) -> None:
    if stream.loop is not None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            stream.loop.call_soon_threadsafe(stream.end, reason)


def _begin() -> None:
    """A forked child has none of its parent's threads."""
    global _lock
    _lock = threading.RLock()
    _streams.clear()
    _of_sessions.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_begin)
