"""Ask again whether open streams may go on: a few at a time, one after another in each thread.

A stream that waits for its turn is one reference in a queue. With a task, a context and a place in
the executor's queue it would be a third of what it holds in all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from typing import Protocol

from asgiref.sync import sync_to_async
from django.db import connections

from ..access import Refusal
from .stock import release_connections

logger = logging.getLogger("flosse_bus")

#: Threads that ask at once, for each event loop.
AT_ONCE = 4
#: Seconds for which a thread goes on with the same database connection.
SLICE = 0.25


class Guarded(Protocol):
    """A stream whose permission is asked for again. In its event loop, but for :meth:`ask`."""

    @property
    def finished(self) -> bool:
        """Is there nothing to ask any more? Any thread."""

    def check_access(self) -> None:
        """See whether it is time to ask again."""

    def ask(self) -> Refusal | None:
        """Ask again. Sync code, in a thread: it may use the ORM."""

    def answered(self, answer: Refusal | BaseException | None) -> None:
        """It has been asked."""


class Rechecks:
    """Those of one event loop that wait to be asked about."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Guarded] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: deque[tuple[Guarded, Refusal | BaseException | None]] = deque()
        self._announced = False

    def add(self, stream: Guarded) -> None:
        """Ask about a stream that is not waiting already, and tell it by ``answered``."""
        self._waiting.append(stream)
        if len(self._tasks) < AT_ONCE:
            task = self._loop.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        while self._waiting:
            try:
                await sync_to_async(self._ask, thread_sensitive=False)()
            except Exception:
                logger.exception("database connections could not be given back")

    def _hand_out(self) -> None:
        self._announced = False  # first: what comes from now on is announced again
        while self._answers:
            stream, answer = self._answers.popleft()
            # By itself, as it may enter the task of its own request.
            self._loop.call_soon(stream.answered, answer)

    # In threads

    def _ask(self) -> None:
        """Ask about whoever is next, until nobody is or others may want the thread."""
        waiting = self._waiting
        end = time.monotonic() + SLICE
        try:
            while waiting and time.monotonic() < end:
                try:
                    stream = waiting.popleft()
                except IndexError:  # another thread was quicker
                    return
                if stream.finished:
                    continue
                try:
                    self._announce(stream, stream.ask())
                except BaseException as error:  # noqa: BLE001  # because it ends this stream alone
                    # Also a cancelled task, sys.exit() and gevent's timeout: a stream without an
                    # answer would ask for ever, and in the loop they would end the server.
                    self._announce(stream, error)
                _leave_clean()
        finally:
            release_connections()

    def _announce(self, stream: Guarded, answer: Refusal | BaseException | None) -> None:
        """Let the loop have an answer now: the next question may take long.

        The loop is woken once for all that have come until it gets to them.
        """
        self._answers.append((stream, answer))
        if not self._announced:
            self._announced = True
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
                self._loop.call_soon_threadsafe(self._hand_out)


def _leave_clean() -> None:
    """Keep nothing for the next stream that is broken, or sees the database as it was before."""
    for connection in connections.all(initialized_only=True):
        if connection.errors_occurred or not connection.autocommit:
            release_connections()
            return
