"""Where a generator runs: in a thread of its own, or in a task.

It runs no further than to its next frame until that has been handed to the server: what stands
after a ``yield`` happens when the event is on its way, and a slow client slows the generator down.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import connections

from .slots import Slot
from .steps import Steps
from .surroundings import Surroundings

#: Takes a frame, or ``None`` at the end. Any thread.
Deliver = Callable[[bytes | None], None]


class Closable(Protocol):
    """Runs the generator of one stream."""

    def close(self) -> None:
        """Close the generator as soon as that can be done. Any thread; again is harmless."""


class Producer(Closable, Protocol):
    """Runs it until the next frame and no further."""

    def ask(self) -> None:
        """Have the next frame delivered. Any thread."""


class ThreadProducer:
    """For a sync generator. Its thread has database connections of its own."""

    def __init__(
        self, steps: Steps, surroundings: Surroundings, deliver: Deliver, slot: Slot
    ) -> None:
        self._steps = steps
        self._surroundings = surroundings
        self._deliver = deliver
        self._slot = slot
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        # A daemon: a generator that does not come back must not keep the process from ending.
        threading.Thread(target=self._run, name="flosse_bus stream", daemon=True).start()

    def ask(self) -> None:
        self._asked.put(True)

    def close(self) -> None:
        self._asked.put(False)

    def _run(self) -> None:
        run = self._surroundings.context.run
        try:
            run(self._surroundings.enter)
            while self._asked.get():
                frame = run(self._steps.step)
                if frame is None:
                    break
                self._deliver(frame)
        finally:
            try:
                run(self._steps.close)
            finally:
                connections.close_all()
                self._slot.release()
                self._deliver(None)


class TaskRunner:
    """For an async generator, made in the event loop where it is to run, and begun by itself.

    ``sink`` takes each frame, and returns when the generator may go on. ``over`` is called when it
    has been closed.
    """

    def __init__(
        self,
        steps: Steps,
        surroundings: Surroundings,
        sink: Callable[[bytes], Awaitable[None]],
        over: Callable[[], None],
    ) -> None:
        self._steps = steps
        self._surroundings = surroundings
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._task = surroundings.context.run(self._loop.create_task, self._run())
        # Also where it is cancelled before it has begun.
        self._task.add_done_callback(lambda _: over())

    def close(self) -> None:
        """Close the generator as soon as that can be done. Any thread; again is harmless."""
        if self._is_here():
            self._cancel()
        else:
            with contextlib.suppress(RuntimeError):  # the loop has been closed, and its tasks too
                self._loop.call_soon_threadsafe(self._cancel)

    def _is_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def _cancel(self) -> None:
        if not self._closing:
            self._closing = True
            self._task.cancel()

    async def _run(self) -> None:
        mine = self._surroundings.enter()
        try:
            await self._produce()
        except asyncio.CancelledError:
            if not self._closing:  # its own doing
                raise
        finally:
            await self._steps.aclose()
            await _release(mine)

    async def _produce(self) -> None:
        while not self._closing:
            frame = await self._steps.astep()
            if frame is None:
                return
            await self._sink(frame)


class TaskProducer(TaskRunner):
    """A runner that goes no further than it is asked to."""

    def __init__(self, steps: Steps, surroundings: Surroundings, deliver: Deliver) -> None:
        self._deliver = deliver
        self._asked = asyncio.Event()
        super().__init__(steps, surroundings, self._hand_over, partial(deliver, None))

    def ask(self) -> None:
        if self._is_here():
            self._asked.set()
        else:
            self._loop.call_soon_threadsafe(self._asked.set)

    async def _produce(self) -> None:
        await self._until_asked()
        await super()._produce()

    async def _hand_over(self, frame: bytes) -> None:
        self._deliver(frame)
        await self._until_asked()

    async def _until_asked(self) -> None:
        await self._asked.wait()
        self._asked.clear()


async def _release(mine: ThreadSensitiveContext) -> None:
    """Close the database connections of the thread in which its sync code ran, and end it."""
    if mine in SyncToAsync.context_to_thread_executor:
        await sync_to_async(connections.close_all)()
        SyncToAsync.context_to_thread_executor.pop(mine).shutdown(wait=False)
