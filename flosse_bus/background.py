"""An event loop on a thread of its own, for code that has none."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .exceptions import BackendUnavailable
from .greenlets import new_event_loop

T = TypeVar("T")

#: Seconds between two calls of what watches in such a thread.
WATCH = 1.0


class LoopThread:
    """A daemon thread that runs an event loop until it is stopped."""

    def __init__(self, name: str) -> None:
        self._lock = threading.Lock()
        self._stopped = False
        self._watching: set[Callable[[float], None]] = set()
        self.loop = new_event_loop()
        self.loop.call_soon(self._look)
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the thread's loop and wait for its result.

        Raises:
            BackendUnavailable: the thread has been stopped.
        """
        with self._lock:
            if self._stopped:
                coroutine.close()
                raise BackendUnavailable("This bus was closed just now. Try again.")
            future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
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

    def stop(self, last: Coroutine[Any, Any, None]) -> None:
        """Run ``last``, answer whoever still waits for this loop, and end the thread."""
        with self._lock:
            self._stopped = True
            ending = asyncio.run_coroutine_threadsafe(self._end(last), self.loop)
        ending.result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    async def _end(self, last: Coroutine[Any, Any, None]) -> None:
        await last
        waited_for = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*waited_for, return_exceptions=True)

    def _look(self) -> None:
        now = time.monotonic()
        for look in [*self._watching]:
            look(now)
        self.loop.call_later(WATCH, self._look)

    def _serve(self) -> None:
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()
