"""The hub: in one process and event loop the only listener on a backend.

It moves events from the listener to its switchboard, which keeps a ring for each topic that has
subscribers, so that a reconnect storm is served from memory. Whatever waits is here; whatever must
not be interrupted is plain code in the switchboard, under its lock, which is never held across an
``await``.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import time
from collections.abc import Callable, Iterable

from .backends.base import BusBackend, Heard, Interruption, Listener
from .conf import BusConfig
from .cursor import EARLIEST, Cursor
from .events import Record
from .exceptions import BackendUnavailable
from .subscription import Signal, Subscription
from .switchboard import Switchboard, parse_cursor

logger = logging.getLogger("flosse_bus")

#: Seconds for which a topic is followed after its last stream, so that a reconnect finds it warm.
LINGER = 30.0
#: Seconds for which a stream that opens waits for the backend and for the listener to catch up.
PATIENCE = 5.0
#: Seconds between attempts to listen again: doubled each time, jittered, up to the last.
BACKOFF = (0.1, 5.0)
#: Seconds between looks at how far the log has got, so that cursors of quiet topics stay fresh.
PROBE = 1.0


class Hub:
    """Made by :class:`~flosse_bus.hubs.Hubs`, inside the event loop that it will run on."""

    def __init__(self, backend: BusBackend, config: BusConfig) -> None:
        self._backend = backend
        self._config = config
        self._opening = asyncio.Lock()
        self._listener: Listener | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._openings: set[asyncio.Task[None]] = set()
        self._impatient = 0
        # Records that arrive while a snapshot is fetched: they may be newer than it is.
        self._early: list[Record] | None = None
        self._repairing = False
        self._repairs = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._down = False
        self._stopped = False
        self.loop = asyncio.get_running_loop()
        self.board = Switchboard(config)

    async def open(
        self,
        names: Iterable[str],
        *,
        after: str | None,
        signal: Signal,
        heartbeat: float | None = None,
    ) -> Subscription:
        """Subscribe to topics and patterns from a cursor's text, ``"earliest"`` or now.

        A text that is no cursor of this log is not an error: the subscription begins with a
        reset. What :meth:`Subscription.take` gives first is the opening mark or that reset.

        Raises:
            BackendUnavailable: the log cannot be read now.
        """
        subscription = Subscription(
            self.board,
            tuple(dict.fromkeys(names)),
            signal=signal,
            max_pending=self._config.max_pending,
            max_bytes=max(4 * self._config.max_event_size, 1 << 20),
            heartbeat=heartbeat,
        )
        # A task of its own: a backend that hangs must not hold the caller, nor a caller that is
        # cancelled leave it half done.
        opening = self.loop.create_task(self._open(subscription, after))
        self._openings.add(opening)
        try:
            await asyncio.wait([opening])
        except asyncio.CancelledError:
            opening.cancel()
            self.close(subscription)  # it may have been registered just now
            raise
        finally:
            self._openings.discard(opening)
        if not opening.cancelled():
            opening.result()
        elif not self._stopped:
            raise self._out_of_patience()
        if self._stopped:
            subscription.end("shutdown")
        return subscription

    async def _open(self, subscription: Subscription, after: str | None) -> None:
        impatient = self._impatient
        async with self._opening:
            if self._impatient != impatient:
                raise self._out_of_patience()
            if self._stopped:
                return
            timer = self.loop.call_later(PATIENCE, self._lose_patience, asyncio.current_task())
            try:
                await self._follow(subscription.names)
                tail = await self._tail_for(after)
                # No await from here on: nothing can come between snapshot and registration.
                with self.board.lock:
                    if subscription.closed is not None:
                        return  # its caller has gone; wait_for() may hide that before Python 3.12
                    self.board.register(subscription)
                    self.board.place(subscription, after, tail)
            finally:
                timer.cancel()

    def _lose_patience(self, opening: asyncio.Task[None] | None) -> None:
        self._impatient += 1  # those behind it would only wait as long, one after the other
        if opening is not None:
            opening.cancel()

    def _out_of_patience(self) -> BackendUnavailable:
        return BackendUnavailable(
            f"bus {self._config.alias!r}: the end of its log was not reached within {PATIENCE:g} s."
        )

    def close(self, subscription: Subscription) -> None:
        """Take out a subscription that nobody reads any more. Again is harmless.

        It never waits for the lock: a reader may be closed by the garbage collector, in the midst
        of anything that this very thread does under it.
        """
        subscription.closed = subscription.closed or "closed"
        if self.board.lock.acquire(blocking=False):
            try:
                self.board.take_out(subscription)
            finally:
                self.board.lock.release()
        else:
            self._call_soon(self.close, subscription)

    def end(self, subscription: Subscription, reason: str) -> None:
        """Tell one stream to end, from any thread."""
        self._call_soon(self._end, subscription, reason)

    def _call_soon(self, function: Callable[..., None], *args: object) -> None:
        # A loop that is closed has taken its streams with it.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *args)

    def _end(self, subscription: Subscription, reason: str) -> None:
        with self.board.lock:
            subscription.end(reason)

    def give_up(self, subscription: Subscription, reason: str) -> None:
        """A client takes nothing any more: count it, and let it go. Only in the hub's loop."""
        with self.board.lock:
            subscription.closed = subscription.closed or reason
            self.board.counters["timeouts"] += 1
        logger.warning("stream given up (%s) on %s", reason, ", ".join(subscription.names))

    def end_all(self, reason: str) -> None:
        """Tell every stream, and each that still opens, to end. Only in the hub's loop."""
        self._stopped = True
        with self.board.lock:
            self.board.end_all(reason)

    @property
    def streams(self) -> int:
        return len(self.board.subscriptions)

    async def aclose(self) -> None:
        """End all streams and stop listening."""
        self.end_all("shutdown")
        tasks = [*self._openings, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._hang_up()

    async def _hang_up(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await listener.aclose()

    async def _follow(self, names: Iterable[str]) -> None:
        """Listen to these topics and patterns, with what is kept of them in the rings."""
        if not self._tasks:
            await self._start()
        while cold := [name for name in names if not self.board.follows(name)]:
            await self._until(lambda: not (self._repairing or self._down))
            repairs = self._repairs
            self._early = []
            try:
                await self._heard.watch(cold)
                snapshot = await self._backend.aread(cold)
                await self._repaired_or_at(repairs, snapshot.tail)
                if self._repairs == repairs and not self._repairing:
                    with self.board.lock:
                        self.board.install(cold, snapshot, self._early)
            finally:
                self._early = None

    async def _start(self) -> None:
        await self._hang_up()
        # Listen first: whatever is not in the tail then is heard.
        self._listener = self._backend.listen()
        self.board.start(await self._backend.aread([]))
        for work in (self._run, self._keep, self._probe, self._tidy):
            # In a context of its own: the caller's belongs to one request and would outlive it.
            task = contextvars.Context().run(self.loop.create_task, work())
            task.add_done_callback(self._collapse)
            self._tasks.append(task)

    def _collapse(self, task: asyncio.Task[None]) -> None:
        """Somebody else has cancelled the hub's work: end the streams and let the next begin it."""
        if self._stopped or not self._tasks:
            return
        tasks, self._tasks = self._tasks, []
        for other in [*tasks, *self._openings]:
            other.cancel()
        with self.board.lock:
            self.board.end_all("shutdown")
        self.board = Switchboard(self._config)

    @property
    def _heard(self) -> Listener:
        if self._listener is None:
            raise BackendUnavailable(f"bus {self._config.alias!r} is closed.")
        return self._listener

    async def _tail_for(self, after: str | None) -> Cursor:
        """Return a tail of the log that is new enough to judge and place ``after``."""
        if after is not None:
            cursor = parse_cursor(after)
            if after == EARLIEST or (cursor is not None and self.is_at(cursor)):
                return self.board.tail
        while True:
            repairs = self._repairs
            tail = await self._backend.atail()
            if tail.epoch == self.board.epoch:
                return tail
            await self._repaired_or_at(repairs, tail)

    async def _repaired_or_at(self, repairs: int, cursor: Cursor) -> None:
        """Wait until everything up to a cursor is handed out, or another repair has been."""
        if not self.is_at(cursor):
            await self._heard.probe()
        await self._until(lambda: self._repairs != repairs or self.is_at(cursor))

    def is_at(self, cursor: Cursor) -> bool:
        """Has everything up to this cursor been handed out?"""
        return self.board.holds(cursor)

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for the listener to get so far.

        Raises:
            BackendUnavailable: the listener has failed.
        """
        while not condition():
            if self._down:
                raise BackendUnavailable(f"bus {self._config.alias!r} is not heard at present.")
            progress = self.loop.create_future()
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
            while not self._stopped:
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
            logger.warning("listening on bus %r has ended, trying again", self._config.alias)
        except BackendUnavailable as error:
            logger.warning("bus %r is not heard any more: %s", self._config.alias, error)
        except Exception:
            # Streams stay open: what they miss now is read from the log afterwards.
            logger.exception("listening on bus %r failed, trying again", self._config.alias)

    async def _take(self, heard: Heard) -> None:
        if isinstance(heard, Interruption):
            await self._repair()
            return
        last = heard if isinstance(heard, Cursor) else heard[-1].cursor
        if not self.board.knows(last.epoch):
            await self._repair()
        if isinstance(heard, Cursor):
            with self.board.lock:
                self.board.advance(heard)
            self._progress()
        else:
            await self._dispatch_all(heard)

    async def _dispatch_all(self, batch: list[Record]) -> None:
        # A burst is handed out in parts, so that whoever reads fast enough can keep up with it.
        part = max(1, min(self._config.max_pending, self._config.history_size) // 4)
        for start in range(0, len(batch), part):
            if start:
                await asyncio.sleep(0)
            self.dispatch(batch[start : start + part])

    def dispatch(self, records: list[Record]) -> None:
        """Hand a batch, in order of position, to rings and subscriptions."""
        with self.board.lock:
            self.board.dispatch(records)
            if self._early is not None:
                self._early += records
        self._progress()

    async def _listen_again(self) -> None:
        """Replace the listener, as often as it takes, and make good what was missed."""
        pause, longest = BACKOFF
        while not self._stopped:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, longest)
            try:
                async with self._opening:
                    await asyncio.wait_for(self._replace_listener(), PATIENCE)
                self._down = False
                await self._repair()
                logger.warning("bus %r is heard again", self._config.alias)
                return
            except Exception as error:  # noqa: BLE001  # because whatever it is, trying goes on
                self._down = True
                why = str(error) or repr(error)
                logger.warning("bus %r is still not there: %s", self._config.alias, why)

    async def _replace_listener(self) -> None:
        await self._hang_up()
        self._listener = self._backend.listen()
        await self._listener.watch(self.board.names)

    async def _repair(self) -> None:
        """Bring rings and streams up to date from the log.

        Topics that are being added meanwhile are not in its snapshot: they begin again after it.
        """
        self._repairing = True
        self._repairs += 1
        try:
            snapshot = await self._backend.aread(self.board.names)
            with self.board.lock:
                self.board.repair(snapshot)
        finally:
            self._repairing = False
            self._repairs += 1
            self._progress()

    async def _keep(self) -> None:
        pause = min(1.0, self._config.heartbeat / 4)
        while True:
            await asyncio.sleep(pause)
            with self.board.lock:
                self.board.beat(time.monotonic())

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(PROBE)
            if self._listener is not None and not self._down:
                try:
                    await self._listener.probe()
                except Exception:
                    logger.exception("bus %r: could not probe its listener", self._config.alias)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(LINGER)
            try:
                await self.sweep()
            except Exception:
                logger.exception("bus %r: could not drop idle topics", self._config.alias)

    async def sweep(self, linger: float | None = None) -> None:
        """Stop following what has had no stream for ``linger`` seconds, and forget dead topics."""
        linger = LINGER if linger is None else linger
        async with self._opening:
            with self.board.lock:
                idle = self.board.drop_idle(time.monotonic() - linger)
                self.board.drop_dead(time.time())
            if idle:
                await asyncio.wait_for(self._heard.unwatch(idle), PATIENCE)
