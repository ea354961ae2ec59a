"""Which hub serves the caller: one for each event loop, and one on a thread for sync code."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter

from .backends.base import BusBackend
from .background import LoopThread
from .conf import BusConfig
from .cursor import Cursor
from .hub import Hub
from .notices import Notices


class HubThread(LoopThread):
    """An event loop on a daemon thread, with a hub of its own."""

    def __init__(self, backend: BusBackend, config: BusConfig, notices: Notices) -> None:
        super().__init__(f"flosse_bus {config.alias}")
        self.hub = self.run(self._make(backend, config, notices))

    def close(self) -> None:
        """End the streams, those that still open too, and the thread."""
        self.stop(self.hub.aclose())

    @staticmethod
    async def _make(backend: BusBackend, config: BusConfig, notices: Notices) -> Hub:
        return Hub(backend, config, notices)


class Hubs:
    """The hubs of one bus in this process."""

    def __init__(self, backend: BusBackend, config: BusConfig) -> None:
        self._backend = backend
        self._config = config
        self.forget()

    def forget(self) -> None:
        """Start over without touching what there was: a forked child has none of its threads."""
        self._lock = threading.Lock()
        self._by_loop: dict[asyncio.AbstractEventLoop, Hub] = {}
        self._thread: HubThread | None = None
        self._ending: str | None = None
        self.notices = Notices(self._config.alias)

    def here(self) -> Hub:
        """Return the hub of the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            hub = self._by_loop.get(loop)
            if hub is None:
                self._by_loop = {k: v for k, v in self._by_loop.items() if not k.is_closed()}
                hub = Hub(self._backend, self._config, self.notices)
                self._by_loop[loop] = hub
                if self._ending is not None:
                    hub.end_all(self._ending)
            return hub

    def threaded(self) -> HubThread:
        """Return the hub for code without an event loop."""
        with self._lock:
            if self._thread is None:
                self._thread = HubThread(self._backend, self._config, self.notices)
                if self._ending is not None:
                    self._thread.hub.loop.call_soon_threadsafe(
                        self._thread.hub.end_all, self._ending
                    )
            return self._thread

    @property
    def ending(self) -> str | None:
        """Return why every stream is being ended, if that is so."""
        return self._ending

    def all(self) -> list[Hub]:
        # No lock: a signal handler may be asking while this very thread holds it.
        hubs = list(self._by_loop.values())
        thread = self._thread
        if thread is not None:
            hubs.append(thread.hub)
        return [hub for hub in hubs if not hub.loop.is_closed()]

    def end_all(self, reason: str) -> None:
        """End every stream, now and later. Any thread, signal handlers included."""
        self._ending = reason
        for hub in self.all():
            try:
                hub.loop.call_soon_threadsafe(hub.end_all, reason)
            except RuntimeError:  # the loop was closed just now, and its streams with it
                continue

    def begin_again(self) -> None:
        """Let streams open after :meth:`end_all`, on hubs that are new."""
        with self._lock:
            if self._ending is None:
                return
            self._ending = None
            thread, self._thread = self._thread, None
            hubs, self._by_loop = self._by_loop, {}
        self._let_go(thread, hubs)

    def close(self) -> None:
        """End every stream and stop the thread. Loops that run elsewhere stop by themselves."""
        self.end_all("bus closed")
        with self._lock:
            thread, self._thread = self._thread, None
            hubs, self._by_loop = self._by_loop, {}
        self._let_go(thread, hubs)
        self._ending = None

    @staticmethod
    def _let_go(thread: HubThread | None, hubs: dict[asyncio.AbstractEventLoop, Hub]) -> None:
        if thread is not None:
            thread.close()
        for hub in hubs.values():
            if hub.loop.is_running():
                asyncio.run_coroutine_threadsafe(hub.aclose(), hub.loop)

    @property
    def counters(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for hub in self.all():
            total.update(hub.board.counters.copy())
        return total

    @property
    def streams(self) -> int:
        return sum(hub.streams for hub in self.all())

    @property
    def pending(self) -> int:
        """Events that wait in the stream that has the most of them waiting."""
        return max((hub.board.pending for hub in self.all()), default=0)

    def lag(self, tail: Cursor, deadline: float) -> int:
        """Return how many events up to ``tail`` the hub that is the furthest behind has not heard.

        It may have been told of a part of them only: where a listener does not hear everything,
        those of topics that nobody follows here count too. So each is asked to look first, and is
        waited for until ``deadline`` (of ``time.monotonic()``) at the latest. Blocks.
        """
        behind = [hub for hub in self.all() if hub.feed.behind(tail)]
        looking = [done for hub in behind if (done := hub.look(tail)) is not None]
        for done in looking:
            done.wait(max(0.0, deadline - time.monotonic()))
        return max((hub.feed.behind(tail) for hub in behind), default=0)
