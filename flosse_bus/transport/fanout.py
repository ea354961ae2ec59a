"""Which streams of an event loop have something to send, and when it is their turn.

A stream that has been handed something is queued once, however much follows, and all that are
queued are written in one sweep: no task is woken for any of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..subscription import Item
from .loops import PerLoop
from .rechecks import Guarded, Rechecks
from .shortcut import chunk

if TYPE_CHECKING:
    from .outlet import Outlet

#: Seconds for which a sweep goes on before other work of the loop has its turn.
SLICE = 0.02
#: Streams between two looks at the clock.
STRIDE = 64
#: Seconds between looks at permissions that must be asked again.
WATCH = 1.0


class FanOut:
    """One for each event loop: :data:`fanouts`. Everything happens in that loop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._call_soon = loop.call_soon
        self._call_later = loop.call_later
        self._ready: deque[Outlet] = deque()
        self._sweeping = False
        self._slice_end: float | None = None
        self._stride = 0
        self._watching = False
        self._items: Sequence[Item] = ()
        self._enveloped = False
        self._bytes = self._chunk = b""
        #: Streams whose permission is asked again from time to time.
        self.guarded: set[Guarded] = set()
        self.rechecks = Rechecks()

    def queue(self, outlet: Outlet) -> None:
        """Give a stream a turn. It is not queued already."""
        self._ready.append(outlet)
        if not self._sweeping:
            self._sweeping = True
            self._call_soon(self._sweep)

    def _sweep(self) -> None:
        ready = self._ready
        turns = len(ready)  # whoever is queued meanwhile waits for the next sweep
        end = time.monotonic() + SLICE
        try:
            while turns:
                stride = min(turns, STRIDE)
                turns -= stride
                for _ in range(stride):
                    ready.popleft().pump()
                if time.monotonic() > end:
                    break
        finally:  # whatever goes wrong with one stream, the others have their turn
            if ready:
                self._call_soon(self._sweep)
            else:
                self._sweeping = False

    def has_time(self) -> bool:
        """May another stream be written to at once, or is it time for other work of the loop?"""
        self._stride -= 1
        if self._stride > 0:
            return True
        now = time.monotonic()
        if self._slice_end is None:
            self._slice_end = now + SLICE
            self._call_soon(self._end_slice)
        elif now > self._slice_end:
            return False
        self._stride = STRIDE
        return True

    def _end_slice(self) -> None:
        self._slice_end = None
        self._stride = 0

    def encode(self, items: Sequence[Item], *, envelope: bool) -> bytes:
        """Return the frames of these items in one piece.

        Streams of the same topics mostly have the same to send, so the last piece is kept.
        """
        if envelope is not self._enveloped or (items is not self._items and items != self._items):
            self._bytes = b"".join([item.frame(envelope=envelope) for item in items])
            self._items, self._enveloped = items, envelope
            self._chunk = b""
        return self._bytes

    def chunk(self, items: Sequence[Item], *, envelope: bool) -> bytes:
        """Return the same as one chunk."""
        data = self.encode(items, envelope=envelope)
        if not self._chunk:
            self._chunk = chunk(data)
        return self._chunk

    def watch(self) -> None:
        """Begin to look after guarded streams, unless that is being done."""
        if not self._watching:
            self._watching = True
            self._call_later(WATCH, self._look)

    def _look(self) -> None:
        try:
            for stream in [*self.guarded]:
                stream.check_access()
        finally:
            self._watching = bool(self.guarded)
            if self._watching:
                self._call_later(WATCH, self._look)


fanouts = PerLoop(FanOut)
