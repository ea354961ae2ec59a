"""Which hub serves the caller: one for each event loop, and one on a thread for sync code."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .backends.base import BusBackend
from .conf import BusConfig
from .exceptions import BackendUnavailable
from .greenlets import new_event_loop
from .hub import Hub

T = TypeVar("T")

#: Seconds between two calls of what watches in a hub's thread.
WATCH = 1.0


class HubThread:
    """An event loop on a daemon thread, with a hub of its own."""

    def __init__(self, backend: BusBackend, config: BusConfig) -> None:
        self._lock = threading.Lock()
        self._stopped = False
        self._watching: set[Callable[[float], None]] = set()
        self._loop = new_event_loop()
        self._thread = threading.Thread(
            target=self._serve, name=f"flosse_bus {config.alias}", daemon=True
        )
        self._thread.start()
        self.hub = self.run(self._make(backend, config))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the thread's loop and wait for its result.

        Raises:
            BackendUnavailable: the thread has been stopped.
        """
        with self._lock:
            if self._stopped:
                coroutine.close()
                raise BackendUnavailable("This bus was closed just now. Try again.")
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # such as Ctrl-C here: nobody waits for it any more
            raise

    def watch(self, look: Callable[[float], None]) -> None:
        """Call ``look`` in the loop from time to time, with that of ``time.monotonic()``."""
        self._watching.add(look)

    def unwatch(self, look: Callable[[float], None]) -> None:
        self._watching.discard(look)

    def stop(self) -> None:
        """End the streams, those that still open too, and the thread."""
        with self._lock:
            self._stopped = True
            ending = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        ending.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _end(self) -> None:
        await self.hub.aclose()
        # Whoever waits for this loop gets an answer before it stops.
        waited_for = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*waited_for, return_exceptions=True)

    def _look(self) -> None:
        now = time.monotonic()
        for look in [*self._watching]:
            look(now)
        self._loop.call_later(WATCH, self._look)

    async def _make(self, backend: BusBackend, config: BusConfig) -> Hub:
        self._look()
        return Hub(backend, config)

    def _serve(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()


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

    def here(self) -> Hub:
        """Return the hub of the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            hub = self._by_loop.get(loop)
            if hub is None:
                self._by_loop = {k: v for k, v in self._by_loop.items() if not k.is_closed()}
                hub = self._by_loop[loop] = Hub(self._backend, self._config)
                if self._ending is not None:
                    hub.end_all(self._ending)
            return hub

    def threaded(self) -> HubThread:
        """Return the hub for code without an event loop."""
        with self._lock:
            if self._thread is None:
                self._thread = HubThread(self._backend, self._config)
                if self._ending is not None:
                    self._thread.hub.loop.call_soon_threadsafe(
                        self._thread.hub.end_all, self._ending
                    )
            return self._thread

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

    def close(self) -> None:
        """End every stream and stop the thread. Loops that run elsewhere stop by themselves."""
        self.end_all("shutdown")
        with self._lock:
            thread, self._thread = self._thread, None
            hubs, self._by_loop = self._by_loop, {}
        if thread is not None:
            thread.stop()
        for hub in hubs.values():
            if hub.loop.is_running():
                asyncio.run_coroutine_threadsafe(hub.aclose(), hub.loop)
        self._ending = None

    @property
    def counters(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for hub in self.all():
            total.update(hub.board.counters.copy())
        return total

    @property
    def streams(self) -> int:
        return sum(hub.streams for hub in self.all())
