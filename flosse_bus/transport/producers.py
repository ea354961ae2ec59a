"""Where a generator runs: in a thread of its own, or in a task.

Each runs until the next frame when it is asked to and no further, so that what stands after a
``yield`` happens when the event has been handed to the server, and a slow client slows it down.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Protocol

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import connections

from .slots import Slot
from .steps import Steps
from .surroundings import Surroundings

#: Takes a frame, or ``None`` at the end. Any thread.
Deliver = Callable[[bytes | None], None]


class Producer(Protocol):
    """Runs the generator of one stream."""

    def ask(self) -> None:
        """Have the next frame delivered. Any thread."""

    def close(self) -> None:
        """Close the generator as soon as that can be done. Any thread; again is harmless."""


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


class TaskProducer:
    """For an async generator, made in the event loop where it is to run."""

    def __init__(self, steps: Steps, surroundings: Surroundings, deliver: Deliver) -> None:
        self._steps = steps
        self._surroundings = surroundings
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._asked = asyncio.Event()
        self._closing = False
        self._task = surroundings.context.run(self._loop.create_task, self._run())

    def ask(self) -> None:
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._asked.set()
        else:
            self._loop.call_soon_threadsafe(self._asked.set)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed, and its tasks with it
            self._loop.call_soon_threadsafe(self._cancel)

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
            try:
                await self._steps.aclose()
                await _release(mine)
            finally:
                self._deliver(None)

    async def _produce(self) -> None:
        while not self._closing:
            await self._asked.wait()
            self._asked.clear()
            frame = await self._steps.astep()
            if frame is None:
                return
            self._deliver(frame)


async def _release(mine: ThreadSensitiveContext) -> None:
    """Close the database connections of the thread in which its sync code ran, and end it."""
    if mine in SyncToAsync.context_to_thread_executor:
        await sync_to_async(connections.close_all)()
        SyncToAsync.context_to_thread_executor.pop(mine).shutdown(wait=False)
