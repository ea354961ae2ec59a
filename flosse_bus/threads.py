"""Blocking calls from event loops: on a few threads that the whole process shares.

A pool per event loop would leave threads and connections behind with every ``asyncio.run()``.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from .exceptions import BackendUnavailable

T = TypeVar("T")

#: Calls under way at once. What waits for a broker waits little, or fails.
THREADS = 16
#: Seconds that a call may wait for a thread before it is not worth making any more.
PATIENCE = 5.0

_executor: ThreadPoolExecutor


async def in_thread(function: Callable[..., T], *args: object) -> T:
    """Run a blocking function on one of the threads.

    Raises:
        BackendUnavailable: all threads are busy, with a broker that does not answer.
    """
    call = partial(_timely, time.monotonic() + PATIENCE, function, *args)
    return await asyncio.get_running_loop().run_in_executor(_executor, call)


def _timely(latest: float, function: Callable[..., T], *args: object) -> T:
    if time.monotonic() > latest:
        raise BackendUnavailable(
            f"{THREADS} calls to the backend are waiting; this one would have been the next "
            f"after {PATIENCE:g} s."
        )
    return function(*args)


def _begin() -> None:
    """A forked child has none of its parent's threads."""
    global _executor
    _executor = ThreadPoolExecutor(THREADS, thread_name_prefix="flosse_bus")


_begin()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_begin)
