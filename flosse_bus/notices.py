"""Warnings that nobody has to read a thousand times: each kind a few times a minute, then a sum."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

logger = logging.getLogger("flosse_bus")

#: Seconds for which warnings of a kind are counted together, and how many of them are logged.
WINDOW, FIRST = 60.0, 10


class Notices:
    """Those of one bus in this process. Any thread.

    Whoever has a warning asks :meth:`due` first, with a kind that says what it is about.
    """

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._lock = threading.Lock()
        #: How many streams could not begin.
        self.refusals = 0
        # Of each kind: when its window ends, and how many there have been in it.
        self._windows: dict[str, tuple[float, int]] = {}

    def due(self, kind: str) -> bool:
        """Count one, and say whether it is one of those to log."""
        self.sum_up()  # which nobody else may do, in a process without streams
        with self._lock:
            ends, count = self._windows.get(kind, (time.monotonic() + WINDOW, 0))
            self._windows[kind] = ends, count + 1
        return count < FIRST

    def refused(self, names: Iterable[str], why: object) -> None:
        """A stream could not begin now: the backend does not answer, a limit is reached, or the
        server stops."""
        with self._lock:
            self.refusals += 1
        if self.due("stream refused"):
            logger.warning("stream refused on %s: %s", ", ".join(names), why)

    def sum_up(self) -> None:
        """Log how many more there were, where that is known by now. Call it from time to time."""
        now = time.monotonic()
        with self._lock:
            over = {kind: count for kind, (ends, count) in self._windows.items() if ends <= now}
            for kind in over:
                del self._windows[kind]
        for kind, count in over.items():
            if count > FIRST:
                logger.warning(
                    "bus %r: %d more times within %g s: %s",
                    self._alias, count - FIRST, WINDOW, kind,
                )  # fmt: skip


class Outages:
    """What one listener's absence gives to say: that it begins, once a minute, and that it is over.

    One that comes and goes is not told of more often.
    """

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._told: float | None = None
        self._silent = False
        self._since = 0.0

    def begin(self, error: BaseException | None, *, expected: bool) -> None:
        """Listening has ended. ``expected``: of an error that backends have a word for."""
        self._since = time.monotonic()
        self._silent = not self._is_time()
        level = logging.WARNING if expected else logging.ERROR
        logger.log(
            logging.DEBUG if self._silent else level,
            "bus %r is not heard any more, trying again: %s",
            self._alias, "its listener has ended" if error is None else self._words(error),
            exc_info=None if expected else error,
        )  # fmt: skip

    def go_on(self, error: BaseException) -> None:
        """Listening again has failed."""
        is_time = self._is_time()
        self._silent = self._silent and not is_time
        logger.log(
            logging.WARNING if is_time else logging.DEBUG,
            "bus %r is still not heard after %.0f s: %s",
            self._alias, time.monotonic() - self._since, self._words(error),
        )  # fmt: skip

    def end(self) -> None:
        """It is heard again."""
        logger.log(
            logging.DEBUG if self._silent else logging.INFO,
            "bus %r is heard again after %.1f s",
            self._alias, time.monotonic() - self._since,
        )  # fmt: skip

    def _words(self, error: BaseException) -> str:
        # Backends say whose they are, and so does the line that this is for.
        return str(error).removeprefix(f"bus {self._alias!r}: ") or repr(error)

    def _is_time(self) -> bool:
        now = time.monotonic()
        if self._told is not None and now - self._told < WINDOW:
            return False
        self._told = now
        return True
