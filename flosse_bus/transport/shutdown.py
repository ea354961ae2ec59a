"""End streams when the server is told to stop.

A server waits for open responses before it exits, and a stream never ends by itself. So on SIGTERM,
SIGINT and SIGQUIT the streams of this process are ended, and then whoever handled the signal before
does as it would have.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import signal
import threading
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from types import FrameType

from ..bus import buses
from . import opened
from .servers import Send, find_stopping

#: SIGQUIT is what gunicorn sends its workers on Ctrl-C, and what Windows has not.
_SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGQUIT") if hasattr(signal, name)
]
#: Seconds for which a server that would not wait for streams to end is held up, and between looks.
PATIENCE, PAUSE = 0.5, 0.02
#: Not from Python, ignored, and Ctrl-C as it is by itself: some servers (daphne) and asyncio put
#: their own handler for it only where they find this one.
_LEFT = (None, signal.SIG_IGN, signal.default_int_handler)
#: The event loops where a server is followed that sends no signal.
_followed: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Future[None]] = (
    weakref.WeakKeyDictionary()
)


class EndStreams:
    """A signal handler in front of the one that was there."""

    def __init__(self, previous: object) -> None:
        self._previous = previous

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        end_streams()
        if callable(self._previous):
            loop = _reactor_loop(self._previous)
            if loop is None:
                self._previous(signum, frame)
            else:
                stop = partial(self._previous, signum)
                loop.call_soon_threadsafe(_after_streams, stop, loop.time() + PATIENCE)
        else:  # the default action: what would have happened without us
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)


def _reactor_loop(handler: object) -> asyncio.AbstractEventLoop | None:
    """Return the event loop of Twisted's reactor, which is daphne's: it would not wait for open
    responses but cut them off."""
    if type(getattr(handler, "__self__", None)).__module__.startswith("twisted."):
        with contextlib.suppress(RuntimeError):  # a reactor without asyncio
            return asyncio.get_running_loop()
    return None


def _after_streams(stop: Callable[[], object], deadline: float) -> None:
    loop = asyncio.get_running_loop()
    still_open = opened.count() or any(bus.hubs.streams for bus in buses.opened())
    if loop.time() < deadline and still_open:
        loop.call_later(PAUSE, _after_streams, stop, deadline)
    else:
        loop.call_later(PAUSE, stop)  # what was sent is written in the next round of the reactor


def end_streams() -> None:
    """End those of this process, now and later. Any thread, signal handlers included."""
    buses.end_all("shutdown")
    opened.end_all("shutdown")


def install() -> None:
    """Put :class:`EndStreams` in front of today's handlers; elsewhere than in the main thread
    Python allows no handlers, and nothing is done.

    Called when a stream begins, because servers install theirs late; again is cheap.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for signum in _SIGNALS:
        current = signal.getsignal(signum)
        if current in _LEFT or isinstance(current, EndStreams):
            continue
        signal.signal(signum, EndStreams(current))


def follow(send: Send) -> None:
    """End the streams also when the server tells its worker to stop in a way of its own.

    Called in the event loop when a stream begins; again is cheap.
    """
    loop = asyncio.get_running_loop()
    if loop in _followed:
        return
    stopping = find_stopping(send)
    if stopping is not None:
        # Not in the request's context, which would live as long.
        _followed[loop] = contextvars.Context().run(loop.create_task, _end_after(stopping))


async def _end_after(stopping: Callable[[], Awaitable[object]]) -> None:
    await stopping()
    end_streams()
