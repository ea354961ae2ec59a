"""The feed: what a hub hears of its backend, from one listener that is replaced when it fails.

It moves events to the hub's switchboard, which keeps a ring for each topic that has subscribers,
and brings both up to date from the log after an interruption.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

from .backends.base import BusBackend, Heard, Interruption, Listener
from .conf import BusConfig
from .cursor import EARLIEST, Cursor
from .events import Record
from .exceptions import BackendUnavailable
from .notices import Notices, Outages
from .switchboard import Switchboard, parse_cursor

T = TypeVar("T")

logger = logging.getLogger("flosse_bus")

#: Seconds for which a topic is followed after its last stream, so that a reconnect finds it warm.
LINGER = 30.0
#: Seconds for which a stream that opens waits for the backend and for the listener to catch up.
PATIENCE = 5.0
#: Seconds between attempts to listen again: doubled each time, jittered, up to the last.
BACKOFF = (0.1, 5.0)
#: Seconds between looks at how far the log has got, so that cursors of quiet topics stay fresh.
PROBE = 1.0


class Feed:
    """Made by :class:`~flosse_bus.hub.Hub`. It connects when first asked to follow something."""

    def __init__(
        self,
        backend: BusBackend,
        config: BusConfig,
        board: Switchboard,
        notices: Notices,
        *,
        collapsed: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._config = config
        self._board = board
        self._notices = notices
        self._outages = Outages(config.alias)
        self._collapsed = collapsed
        # Held while what is followed, or who listens to it, changes.
        self._changing = asyncio.Lock()
        self._listener: Listener | None = None
        # What the listener may have been told to watch: more than is followed while that begins,
        # and where it never did.
        self._watched: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._impatient = 0
        self._asking: asyncio.Task[Cursor] | None = None
        self._to_ask: asyncio.Task[Cursor] | None = None
        # Records that arrive while a snapshot is fetched: they may be newer than it is.
        self._early: list[Record] | None = None
        self._repairing = False
        self._repairs = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._looking: set[asyncio.Task[None]] = set()
        self._down = False
        self._closed = False

    @property
    def down(self) -> bool:
        """Has listening failed, and not been taken up again?"""
        return self._down

    async def aclose(self) -> None:
        """Stop listening."""
        self._closed = True
        tasks = [*self._tasks, *self._looking, *filter(None, (self._asking, self._to_ask))]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._hang_up()

    async def _hang_up(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await listener.aclose()

    async def follow(self, names: Iterable[str]) -> None:
        """Listen to these topics and patterns, with what is kept of them in the rings.

        Raises:
            BackendUnavailable: the log cannot be read now.
            asyncio.CancelledError: it took too long.
        """
        if self._tasks and not self._cold(names):
            return
        impatient = self._impatient
        async with self._changing:
            if self._impatient != impatient:
                raise self.out_of_patience()
            with self._patience():
                if not self._tasks:
                    await self._start()
                while cold := self._cold(names):
                    await self._until(lambda: not (self._repairing or self._down))
                    repairs = self._repairs
                    self._early = []
                    try:
                        self._watched.update(cold)
                        await self._heard.watch(cold)
                        snapshot = await self._backend.aread(cold)
                        await self._repaired_or_at(repairs, snapshot.tail)
                        if self._repairs == repairs and not self._repairing:
                            with self._board.lock:
                                self._board.install(cold, snapshot, self._early)
                    finally:
                        self._early = None

    def _cold(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if not self._board.follows(name)]

    @contextlib.contextmanager
    def _patience(self) -> Iterator[None]:
        task = asyncio.current_task()
        timer = asyncio.get_running_loop().call_later(PATIENCE, self._lose_patience, task)
        try:
            yield
        finally:
            timer.cancel()

    def _lose_patience(self, waiting: asyncio.Task[None] | None) -> None:
        self._impatient += 1  # those behind it would only wait as long, one after the other
        if waiting is not None:
            waiting.cancel()

    def out_of_patience(self) -> BackendUnavailable:
        return BackendUnavailable(
            f"bus {self._config.alias!r}: the end of its log was not reached within {PATIENCE:g} s."
        )

    async def _start(self) -> None:
        await self._hang_up()
        # Listen first: whatever is not in the tail then is heard.
        self._listener = self._backend.listen()
        self._watched = set()
        self._board.start(await self._backend.aread([]))
        for work in (self._run, self._probe, self._tidy):
            task = in_own_context(work())
            task.add_done_callback(self._collapse)
            self._tasks.append(task)

    def _collapse(self, task: asyncio.Task[None]) -> None:
        """Somebody else has cancelled this work."""
        if self._closed:
            return
        self._closed = True
        for other in self._tasks:
            other.cancel()
        self._collapsed()

    @property
    def _heard(self) -> Listener:
        if self._listener is None:
            raise BackendUnavailable(f"bus {self._config.alias!r} is closed.")
        return self._listener

    def tail_at_once(self, after: str | None) -> Cursor | None:
        """Return a tail of the log that can judge and place ``after``, if that is at hand."""
        if not self._tasks or after is None:
            return None
        cursor = parse_cursor(after)
        if after == EARLIEST or (cursor is not None and self.is_at(cursor)):
            return self._board.tail
        return None

    async def tail_for(self, after: str | None) -> Cursor:
        """Return a tail of the log that is new enough to judge and place ``after``.

        Raises:
            BackendUnavailable: the log cannot be read now.
            asyncio.CancelledError: it took too long.
        """
        tail = self.tail_at_once(after)
        if tail is not None:
            return tail
        with self._patience():
            while True:
                repairs = self._repairs
                tail = await self._fresh_tail()
                if tail.epoch == self._board.epoch:
                    return tail
                await self._repaired_or_at(repairs, tail)

    async def _fresh_tail(self) -> Cursor:
        """Ask for the tail, once for all who want it before the question goes out."""
        if self._to_ask is None:
            self._to_ask = in_own_context(self._ask_after(self._asking))
            self._to_ask.add_done_callback(_seen)
        return await asyncio.shield(self._to_ask)

    async def _ask_after(self, previous: asyncio.Task[Cursor] | None) -> Cursor:
        if previous is not None:
            await asyncio.wait([previous])
        self._asking, self._to_ask = self._to_ask, None
        return await self._backend.atail()

    async def _repaired_or_at(self, repairs: int, cursor: Cursor) -> None:
        """Wait until everything up to a cursor is handed out, or another repair has been."""
        if not self.is_at(cursor):
            await self._heard.probe()
        await self._until(lambda: self._repairs != repairs or self.is_at(cursor))

    def is_at(self, cursor: Cursor) -> bool:
        """Has everything up to this cursor been handed out?"""
        return self._board.holds(cursor)

    def behind(self, tail: Cursor) -> int:
        """Return how many events up to ``tail`` may not have come yet. Any thread."""
        board = self._board
        with board.lock:
            if not board.subscriptions or board.holds(tail):
                return 0
            ahead = tail.position - board.position
        return ahead if ahead > 0 else tail.position  # which is of another log then

    def look(self, tail: Cursor, then: Callable[[], None]) -> None:
        """Try to get to ``tail``, and call ``then`` in any case. Only in the hub's loop."""
        task = in_own_context(self._look(tail))
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)
        task.add_done_callback(lambda _: then())

    async def _look(self, tail: Cursor) -> None:
        with contextlib.suppress(Exception):  # of what is wrong, whoever listens tells
            await asyncio.wait_for(self._repaired_or_at(self._repairs, tail), PATIENCE)

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for the listener to get so far.

        Raises:
            BackendUnavailable: the listener has failed.
        """
        while not condition():
            if self._down:
                raise BackendUnavailable(f"bus {self._config.alias!r} is not heard at present.")
            progress = asyncio.get_running_loop().create_future()
            self._waiting.append(progress)
            await progress

    def _progress(self) -> None:
        waiting, self._waiting = self._waiting, []
        for progress in waiting:
            if not progress.done():
                progress.set_result(None)

    # Listening

    async def _run(self) -> None:
        try:
            while not self._closed:
                await self._hear()
                # Whoever opens a stream now must not wait: it holds what listening again needs.
                self._down = True
                self._progress()
                await self._listen_again()
        finally:
            # Also when it is the loop that ends, with everything in it: nobody else would.
            await self._hang_up()

    async def _hear(self) -> None:
        try:
            async for heard in self._heard:
                await self._take(heard)
            self._outages.begin(None, expected=True)
        except BackendUnavailable as error:
            self._outages.begin(error, expected=True)
        except Exception as error:  # noqa: BLE001  # because streams stay open, whatever it is
            # What they miss now is read from the log afterwards.
            self._outages.begin(error, expected=False)

    async def _take(self, heard: Heard) -> None:
        if isinstance(heard, Interruption):
            await self._repair()
            return
        last = heard if isinstance(heard, Cursor) else heard[-1].cursor
        if not self._board.knows(last.epoch):
            await self._repair()
        if isinstance(heard, Cursor):
            with self._board.lock:
                self._board.advance(heard)
            self._progress()
        else:
            await self._dispatch_all(heard)

    async def _dispatch_all(self, batch: list[Record]) -> None:
        with self._board.lock:
            torn = self._board.tell_losses(batch)
            if torn:  # at once: until then rings know of losses that are ahead of the hub
                self._dispatch(batch)
        if torn:
            self._progress()
            return
        # A burst is handed out in parts, so that whoever reads fast enough can keep up with it.
        part = max(1, min(self._config.max_pending, self._config.history_size) // 4)
        for start in range(0, len(batch), part):
            if start:
                await asyncio.sleep(0)
            self.dispatch(batch[start : start + part])

    def dispatch(self, records: list[Record]) -> None:
        """Hand a batch, in order of position, to rings and subscriptions."""
        with self._board.lock:
            self._dispatch(records)
        self._progress()

    def _dispatch(self, records: list[Record]) -> None:
        handed_out = self._board.dispatch(records)
        if self._early is not None:
            self._early += handed_out

    async def _listen_again(self) -> None:
        """Replace the listener, as often as it takes, and make good what was missed."""
        pause, longest = BACKOFF
        while not self._closed:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, longest)
            try:
                async with self._changing:
                    await asyncio.wait_for(self._replace_listener(), PATIENCE)
                self._down = False
                await self._repair()
                self._outages.end()
                return
            except Exception as error:  # noqa: BLE001  # because whatever it is, trying goes on
                self._down = True
                self._outages.go_on(error)

    async def _replace_listener(self) -> None:
        await self._hang_up()
        self._listener = self._backend.listen()
        names = self._board.names
        self._watched = set(names)
        await self._listener.watch(names)

    async def _repair(self) -> None:
        """Bring rings and streams up to date from the log.

        Topics that are being added meanwhile are not in its snapshot: they begin again after it.
        """
        self._repairing = True
        self._repairs += 1
        try:
            snapshot = await self._backend.aread(self._board.names)
            with self._board.lock:
                self._board.repair(snapshot)
        finally:
            self._repairing = False
            self._repairs += 1
            self._progress()

    async def _probe(self) -> None:
        while not self._closed:
            await asyncio.sleep(PROBE)
            if self._listener is not None and not self._down:
                try:
                    await self._listener.probe()
                except Exception:
                    if self._notices.due("its listener could not be probed"):
                        logger.exception("bus %r: could not probe its listener", self._config.alias)

    async def _tidy(self) -> None:
        # Not for ever: wait_for() may hide that the task was cancelled before Python 3.12.
        while not self._closed:
            await asyncio.sleep(LINGER)
            try:
                await self.sweep()
            except Exception:
                logger.exception("bus %r: could not drop idle topics", self._config.alias)

    async def sweep(self, linger: float | None = None) -> None:
        """Stop following what has had no stream for ``linger`` seconds, and forget dead topics."""
        linger = LINGER if linger is None else linger
        async with self._changing:
            with self._board.lock:
                self._board.drop_idle(time.monotonic() - linger)
                self._board.drop_dead(time.time())
                idle = self._watched.difference(self._board.names)
            if idle and not self._down:  # the next listener hears of what is followed then
                # Whoever iterates it says so. What it still watches then is tried again.
                with contextlib.suppress(BackendUnavailable, asyncio.TimeoutError):
                    await asyncio.wait_for(self._heard.unwatch(idle), PATIENCE)
                    self._watched -= idle


def in_own_context(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task that does not keep the caller's context, which belongs to one request."""
    return contextvars.Context().run(asyncio.get_running_loop().create_task, work)


def _seen(task: asyncio.Task[Cursor]) -> None:
    if not task.cancelled():
        task.exception()  # whoever wanted the answer may have gone
