"""A few connections that all threads share: none per thread, per event loop or per call."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from .link import PATIENCE, Arguments, Link, NoAnswer, Query

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

#: Connections in use at once. The log has one lock: more would only wait in another place.
MOST = 8
#: Connections kept for the next call, and for how many seconds.
IDLE = 4
IDLE_TIME = 300.0


class Pool:
    """Connections are made by ``connect`` and kept as long as ``place`` gives the same answer."""

    def __init__(self, connect: Callable[[], Link], place: Callable[[], object]) -> None:
        self._connect = connect
        self._place = place
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(MOST)
        self._idle: list[tuple[Link, object, float]] = []
        self._generation = 0

    def run(self, query: Query, arguments: Arguments) -> PGresult:
        """Return the answer to a query, which is sent once at most.

        Raises:
            NoAnswer, Refused, LinkLost: see :meth:`Link.run`.
        """
        deadline = time.monotonic() + PATIENCE
        if not self._slots.acquire(timeout=PATIENCE):
            raise NoAnswer
        try:
            generation, place = self._generation, self._place()
            link = self._take(place) or self._connect()
            try:
                answer = link.run(query, arguments, deadline)
            except BaseException:
                link.close()
                raise
            self._keep(link, place, generation)
            return answer
        finally:
            self._slots.release()

    def _take(self, place: object) -> Link | None:
        """Return the connection used last: those that few calls need are kept busy."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                link, where, since = self._idle.pop()
            if where == place and time.monotonic() - since < IDLE_TIME and link.usable:
                return link
            link.close()

    def _keep(self, link: Link, place: object, generation: int) -> None:
        now = time.monotonic()
        surplus: list[Link] = []
        with self._lock:
            if generation != self._generation:
                surplus.append(link)
            else:
                self._idle.append((link, place, now))
                while len(self._idle) > IDLE or now - self._idle[0][2] > IDLE_TIME:
                    surplus.append(self._idle.pop(0)[0])
        for one in surplus:
            one.close()

    def close(self) -> None:
        """Close the connections that are idle, and each of the others after its query."""
        with self._lock:
            self._generation += 1
            idle, self._idle = self._idle, []
        for link, _, _ in idle:
            link.close()

    @property
    def idle(self) -> int:
        return len(self._idle)


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for pool in list(_pools):
        pool.close()


def _forget_all() -> None:
    """A forked child has connections of its own: see :func:`link.own`."""
    for pool in list(_pools):
        pool._begin()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_all)
