"""How many threads generator streams may hold at once in this process: MAX_STREAM_THREADS."""

from __future__ import annotations

import os
import sys
import threading

from ..bus import buses
from ..conf import DEFAULT_ALIAS, SETTING
from ..exceptions import TooManyStreams


class Slot:
    """The right to one thread, until it is released."""

    __slots__ = ("__weakref__", "_held")

    def __init__(self) -> None:
        self._held = True

    def release(self) -> None:
        """Again is harmless."""
        with _lock:
            held, self._held = self._held, False
            if held:
                _taken.discard(id(self))


# Reentrant: a response that the garbage collector finds gives its slot up in the midst of whatever
# this thread does.
_lock = threading.RLock()
_taken: set[int] = set()


def take() -> Slot:
    """Return a slot.

    Raises:
        TooManyStreams: all are taken.
    """
    most = buses[DEFAULT_ALIAS].config.max_stream_threads
    slot = Slot()
    with _lock:
        if len(_taken) >= most:
            raise TooManyStreams(
                f"{most} generator streams hold a thread, which is as many as "
                f"{SETTING}[{DEFAULT_ALIAS!r}]['MAX_STREAM_THREADS'] allows. Raise it, or make the "
                "view an async generator, which needs none."
            )
        _taken.add(id(slot))
    return slot


def taken() -> int:
    return len(_taken)


def _begin() -> None:
    """A forked child has none of its parent's threads."""
    global _lock
    _lock = threading.RLock()
    _taken.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_begin)
