"""How many threads generator streams may hold at once in this process, and one client of them:
MAX_STREAM_THREADS and MAX_STREAM_THREADS_PER_CLIENT."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Hashable

from ..bus import buses
from ..conf import DEFAULT_ALIAS, SETTING
from ..exceptions import TooManyOfOne, TooManyStreams


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
                del _taken[id(self)]


# Reentrant: a response that the garbage collector finds gives its slot up in the midst of whatever
# this thread does.
_lock = threading.RLock()
#: Who has taken each.
_taken: dict[int, Hashable] = {}


def take(client: Hashable) -> Slot:
    """Return a slot.

    Raises:
        TooManyStreams: all are taken, or as many as this client may have.
    """
    config = buses[DEFAULT_ALIAS].config
    most, each = config.max_stream_threads, config.max_stream_threads_per_client
    slot = Slot()
    with _lock:
        left = most - len(_taken)
        if left <= 0:
            raise TooManyStreams(
                f"{most} generator streams hold a thread, which is as many as "
                f"{SETTING}[{DEFAULT_ALIAS!r}]['MAX_STREAM_THREADS'] allows. Raise it, or make the "
                "view an async generator, which needs none."
            )
        own = sum(other == client for other in _taken.values())
        # By default somebody who has none yet finds one, however much a few want to have.
        if own >= (left if each is None else each):
            raise TooManyOfOne(
                f"{own} generator streams of one client hold a thread, of {most}. "
                f"{SETTING}[{DEFAULT_ALIAS!r}]['MAX_STREAM_THREADS_PER_CLIENT'] allows "
                f"{'no more than are left for others' if each is None else each}. Raise it, see "
                "that REMOTE_ADDR is not your proxy's, or make the view an async generator, which "
                "needs none."
            )
        _taken[id(slot)] = client
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
