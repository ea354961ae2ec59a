"""The generator streams that are open in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Protocol


class Endable(Protocol):
    """A stream that runs: ``loop`` is where it is ended."""

    loop: asyncio.AbstractEventLoop

    def end(self, reason: str) -> None: ...


_streams: set[Endable] = set()

add, discard = _streams.add, _streams.discard


def count() -> int:
    """Return how many there are."""
    return len(_streams)


def end_all(reason: str) -> None:
    """End them. Any thread, signal handlers included."""
    for stream in _streams.copy():
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            stream.loop.call_soon_threadsafe(stream.end, reason)


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_streams.clear)
