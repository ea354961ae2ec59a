"""Which streams of an event loop wait for their clients, and which clients are given up.

All that wait are looked at together, so that a write which has to wait costs no timer.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from .loops import PerLoop
from .peer import FAREWELL, hang_up
from .progress import Presence, Progress
from .servers import Connection

#: Seconds between looks at streams that wait.
WATCH = 1.0
#: Looks after which each client has been asked whether it is still there, at most.
ROUND = 8


class Owner(Protocol):
    """The stream of a line."""

    @property
    def stopping(self) -> bool:
        """Is it being ended because the server stops?"""

    def lose(self) -> None:
        """Its client takes nothing any more."""


class Line:
    """The way to one client, made in its loop. To be closed with its stream.

    A client that takes nothing for ``patience`` seconds is lost: while a write waits for it, and
    where its socket can be seen also while something is not acknowledged. Whoever is slow is not.
    """

    __slots__ = (
        "__weakref__",
        "_connection",
        "_owner",
        "_patience",
        "_presence",
        "_progress",
        "_switch",
        "_waits",
    )

    def __init__(self, owner: Owner, connection: Connection | None, patience: float) -> None:
        self._owner = owner
        self._patience = patience
        self._progress = Progress() if connection is None else connection.progress()
        self._presence = Presence(None if connection is None else connection.tell)
        self._switch = _watches.here()
        self._waits = False
        self._connection = connection
        if connection is not None and connection.tell is not None:
            self._switch.follow(self, patience)

    def wait(self) -> None:
        """A write begins that has to wait, or goes on with another piece."""
        self._waits = True
        self._progress.begin()
        self._switch.add(self)

    def done(self) -> None:
        """No write waits."""
        self._waits = False
        if not self._presence.doubtful:
            self._switch.discard(self)

    def close(self) -> None:
        """The stream is over. Again is harmless."""
        self._waits = False
        self._switch.discard(self)
        self._switch.unfollow(self)

    def check_presence(self, now: float) -> None:
        """Wait also for a client that has not acknowledged what was written without waiting."""
        if not self._presence.doubtful:
            self._presence.silent(now)
            if self._presence.doubtful:
                self._switch.add(self)

    def check_progress(self, now: float) -> None:
        """Lose the client if it has taken nothing for too long."""
        vanished = self._presence.doubtful and self._presence.silent(now) >= self._patience
        if vanished or (self._waits and self._takes_nothing(now)):
            self._lose(vanished)
        elif not self._waits and not self._presence.doubtful:
            self._switch.discard(self)

    def _takes_nothing(self, now: float) -> bool:
        if self._owner.stopping:
            # However much it takes meanwhile: what has been written may last it for minutes.
            return self._progress.waited(now) >= FAREWELL
        return self._progress.idle(now) >= self._patience

    def _lose(self, vanished: bool) -> None:
        self.close()
        # Not where others go on over the same connection.
        if self._connection is not None and (vanished or self._connection.drop is not None):
            hang_up(self._connection.socket)
        self._owner.lose()


class _Watch:
    """One for each event loop. Everything happens in that loop."""

    def __init__(self) -> None:
        self._call_later = asyncio.get_running_loop().call_later
        self._watching = False
        self._waiting: set[Line] = set()
        self._followed: set[Line] = set()
        self._round: list[Line] = []
        self._looks = ROUND

    def add(self, line: Line) -> None:
        self._waiting.add(line)
        self._begin()

    def discard(self, line: Line) -> None:
        self._waiting.discard(line)

    def follow(self, line: Line, patience: float) -> None:
        """Ask from time to time whether its client is there, which has so many seconds."""
        self._followed.add(line)
        self._looks = max(1, min(self._looks, int(patience / 4)))
        self._begin()

    def unfollow(self, line: Line) -> None:
        self._followed.discard(line)

    def _begin(self) -> None:
        if not self._watching:
            self._watching = True
            self._call_later(WATCH, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        try:
            for line in [*self._waiting]:
                line.check_progress(now)
            self._look_around(now)
        finally:
            self._watching = bool(self._waiting or self._followed)
            if self._watching:
                self._call_later(WATCH, self._look)

    def _look_around(self, now: float) -> None:
        # A part of all each time: of 10,000 streams that takes some milliseconds.
        if not self._round:
            self._round = [*self._followed]
        for _ in range(min(len(self._round), -(-len(self._followed) // self._looks))):
            line = self._round.pop()
            if line in self._followed:
                line.check_presence(now)


_watches = PerLoop(_Watch)
