"""An event loop without I/O whose clock jumps to what comes next and whose order a seed decides."""

from __future__ import annotations

import asyncio
import heapq


class SimulatedLoop(asyncio.BaseEventLoop):
    """Timers run at their time, in virtual seconds. Of what is ready, asyncio's order is one that
    is legal; with ``shuffled`` any other that a busier machine might bring about is tried.
    """

    def __init__(self, rng, *, shuffled):
        super().__init__()
        self._rng = rng
        self._shuffled = shuffled
        self._now = 1000.0
        self.steps = 0
        self.errors = []
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self):
        return self._now

    def _write_to_self(self):
        """Nobody sleeps."""

    def _process_events(self, events):
        raise NotImplementedError

    def _run_once(self):
        scheduled, ready = self._scheduled, self._ready
        while scheduled and scheduled[0]._cancelled:
            self._forget(heapq.heappop(scheduled))
        if not ready and not self._stopping:
            if not scheduled:
                raise RuntimeError("everybody waits for ever")
            self._now = max(self._now, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self._now:
            timer = heapq.heappop(scheduled)
            self._forget(timer)
            ready.append(timer)
        for _ in range(len(ready)):
            if self._shuffled and len(ready) > 1 and self._rng.random() < 0.3:
                ready.rotate(-self._rng.randrange(len(ready)))
            handle = ready.popleft()
            if not handle._cancelled:
                self.steps += 1
                handle._run()

    def _forget(self, timer):
        timer._scheduled = False
        if timer._cancelled:
            self._timer_cancelled_count -= 1


class Clock:
    """What the modules of the hub see as ``time``."""

    def __init__(self, loop):
        self._loop = loop

    def monotonic(self):
        return self._loop.time()

    def time(self):
        return 1e9 + self._loop.time()
