"""Has a generator's stream asked about while it is open, and ended after a no.

Its looks and questions are those of all streams of its event loop. Under WSGI that is the loop that
watches clients, as the thread of the request is the generator's: what it asked there would see the
database in the generator's transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from typing import Protocol

from ..access import Rechecked, Refusal
from .fanout import fanouts
from .stream import WITHDRAWN

logger = logging.getLogger("flosse_bus")


class Ending(Protocol):
    """The stream that is watched over."""

    #: Why it ends.
    reason: str | None

    def end(self, reason: str) -> None: ...


class Warden:
    """Of one stream. Everything but what says otherwise happens in its event loop."""

    __slots__ = ("__weakref__", "_access", "_asking", "_context", "_loop", "_stream", "_waiting")

    def __init__(self, stream: Ending, access: Rechecked, context: contextvars.Context) -> None:
        self._stream = stream
        self._access = access
        self._context = context
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asking = False
        self._waiting: asyncio.Future[None] | None = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch, in this loop. Any thread."""
        self._loop = loop
        loop.call_soon_threadsafe(self._begin)

    def close(self) -> None:
        """The stream has ended. Any thread; again is harmless."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                self._loop.call_soon_threadsafe(self._close)

    def _begin(self) -> None:
        if not self.finished:
            fanout = fanouts.here()
            fanout.guarded.add(self)
            fanout.watch()

    def _close(self) -> None:
        fanouts.here().guarded.discard(self)
        self._let_go()

    # Before something is sent

    async def allows(self) -> bool:
        """May the next frame be sent? If it is not known, ask and wait."""
        if self._access.overdue and not self.finished:
            self._waiting = asyncio.get_running_loop().create_future()
            self._ask_again()
            await self._waiting
        return not self.finished

    def allows_here(self) -> bool:
        """The same in a thread, which waits."""
        if self._access.overdue and not self.finished and self._loop is not None:
            return asyncio.run_coroutine_threadsafe(self.allows(), self._loop).result()
        return not self.finished

    # Asking again

    @property
    def finished(self) -> bool:
        """Is there nothing to ask any more? Any thread."""
        return self._stream.reason is not None

    def check_access(self) -> None:
        """Ask again before it is overdue, so that no event has to wait for the answer."""
        if self._access.due:
            self._ask_again()

    def _ask_again(self) -> None:
        if not self._asking:
            self._asking = True
            fanouts.here().rechecks.add(self)

    def ask(self) -> Refusal | None:
        """Ask again. Sync code, in a thread: it may use the ORM."""
        return self._context.copy().run(self._access.recheck)

    def answered(self, answer: Refusal | BaseException | None) -> None:
        """It has been asked."""
        self._asking = False
        if isinstance(answer, BaseException):
            logger.error("stream ended, as its permission could not be checked", exc_info=answer)
            self._stream.end("error")
        elif answer is not None:
            self._stream.end(WITHDRAWN)
        self._let_go()

    def _let_go(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
