"""How a generator that waits in one of our iterators hears that its stream has ended.

A sync generator can be closed only where it has yielded. One that waits for the next event of a
subscription may not get there for hours, and would hold its thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar

#: That of the stream for which the running code works, if any.
current: ContextVar[Interrupts | None] = ContextVar("flosse_bus_interrupts", default=None)


class Interrupts:
    """What to call when one stream ends. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the garbage collector may close a generator in here
        self._calls: list[Callable[[], None]] = []
        self._over = False

    def add(self, call: Callable[[], None]) -> None:
        """Have it called when the stream ends, which may be now."""
        with self._lock:
            if not self._over:
                self._calls.append(call)
                return
        call()

    def discard(self, call: Callable[[], None]) -> None:
        with self._lock:
            if call in self._calls:
                self._calls.remove(call)

    def interrupt(self) -> None:
        """The stream has ended. Again is harmless."""
        with self._lock:
            calls, self._calls = self._calls, []
            self._over = True
        for call in calls:
            call()
