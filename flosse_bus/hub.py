"""The hub: in one process and event loop the only listener on a backend.

Whatever waits is here and in the feed; whatever must not be interrupted is plain code in the
switchboard, under its lock, which is never held across an ``await``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable

from .backends.base import BusBackend
from .conf import BusConfig
from .cursor import Cursor
from .feed import Feed, in_own_context
from .notices import Notices
from .subscription import Signal, Subscription
from .switchboard import Switchboard

logger = logging.getLogger("flosse_bus")


class Hub:
    """Made by :class:`~flosse_bus.hubs.Hubs`, inside the event loop that it will run on."""

    def __init__(self, backend: BusBackend, config: BusConfig, notices: Notices) -> None:
        self._backend = backend
        self._config = config
        self._notices = notices
        self._openings: set[asyncio.Task[None]] = set()
        self._keeping: asyncio.Task[None] | None = None
        self._ending: str | None = None
        self.loop = asyncio.get_running_loop()
        self._begin()

    def _begin(self) -> None:
        self.board = Switchboard(self._config, self._notices)
        self.feed = Feed(
            self._backend, self._config, self.board, self._notices, collapsed=self._collapse
        )

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
        reset. What :meth:`Subscription.take` gives first is the opening, with that reset behind it.

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
        if self._keeping is None or self._keeping.done():
            self._keeping = in_own_context(self._keep())
        # Whoever comes back to a topic that is followed, with a cursor that this hub can judge,
        # costs the backend nothing and waits for nobody.
        tail = self.feed.tail_at_once(after)
        if self._ending is not None or tail is None or not self._place(subscription, after, tail):
            await self._open_in_time(subscription, after)
        if self._ending is not None:
            subscription.end(self._ending)
        return subscription

    async def _open_in_time(self, subscription: Subscription, after: str | None) -> None:
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
        elif self._ending is None:
            raise self.feed.out_of_patience()

    async def _open(self, subscription: Subscription, after: str | None) -> None:
        while self._ending is None:
            await self.feed.follow(subscription.names)
            tail = await self.feed.tail_for(after)
            if self._place(subscription, after, tail):
                return

    def _place(self, subscription: Subscription, after: str | None, tail: Cursor) -> bool:
        """Register a subscription where it begins, unless its topics have gone cold meanwhile.

        Nothing can come between the two.
        """
        with self.board.lock:
            if subscription.closed is not None:
                return True  # its caller has gone; wait_for() may hide that before Python 3.12
            if not all(map(self.board.follows, subscription.names)):
                return False
            self.board.register(subscription)
            self.board.place(subscription, after, tail)
            return True

    def close(self, subscription: Subscription, reason: str = "closed") -> None:
        """Take out a subscription that nobody reads any more. Again is harmless.

        It never waits for the lock: a reader may be closed by the garbage collector, in the midst
        of anything that this very thread does under it.
        """
        subscription.closed = subscription.closed or reason
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

    def look(self, tail: Cursor) -> threading.Event | None:
        """See to it that the listener gets to ``tail`` soon, and return what says that it has, or
        cannot. Any thread; ``None`` in the hub's own, where it could not while somebody waits.
        """
        if asyncio._get_running_loop() is self.loop:
            return None
        done = threading.Event()
        self._call_soon(self.feed.look, tail, done.set)
        return done

    def give_up(self, subscription: Subscription, reason: str) -> None:
        """A client takes nothing any more: count it, and let it go. Only in the hub's loop."""
        with self.board.lock:
            subscription.closed = subscription.closed or reason
            self.board.counters["timeouts"] += 1
        if self._notices.due(f"stream given up ({reason})"):
            logger.warning("stream given up (%s) on %s", reason, ", ".join(subscription.names))

    def end_all(self, reason: str) -> None:
        """Tell every stream, and each that still opens, to end. Only in the hub's loop."""
        self._ending = self._ending or reason
        with self.board.lock:
            self.board.end_all(reason)

    @property
    def streams(self) -> int:
        return len(self.board.subscriptions)

    async def aclose(self) -> None:
        """End all streams and stop listening."""
        self.end_all("shutdown")
        tasks = [*self._openings, *filter(None, [self._keeping])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.feed.aclose()

    def _collapse(self) -> None:
        """Somebody else has cancelled the feed: end the streams and let the next begin it."""
        if self._ending is not None:
            return
        for opening in self._openings:
            opening.cancel()
        with self.board.lock:
            self.board.end_all("shutdown")
        self._begin()

    async def _keep(self) -> None:
        pause = min(1.0, self._config.heartbeat / 4)
        while True:
            await asyncio.sleep(pause)
            with self.board.lock:
                self.board.beat(time.monotonic())
            self._notices.sum_up()
