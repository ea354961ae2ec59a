"""End streams when the server is told to stop.

A server waits for open responses before it exits, and a stream never ends by itself. So on SIGTERM
and SIGINT the streams of this process are ended, and then whoever handled the signal before does
as it would have.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from ..bus import buses

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class EndStreams:
    """A signal handler in front of the one that was there."""

    def __init__(self, previous: object) -> None:
        self._previous = previous

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        for bus in buses.opened():
            bus.hubs.end_all("shutdown")
        if callable(self._previous):
            self._previous(signum, frame)
        else:  # the default action: what would have happened without us
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)


def install() -> None:
    """Put :class:`EndStreams` in front of today's handlers; elsewhere than in the main thread
    Python allows no handlers, and nothing is done.

    Called when a stream begins, because servers install theirs late; again is cheap.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for signum in _SIGNALS:
        current = signal.getsignal(signum)
        if current in (None, signal.SIG_IGN) or isinstance(current, EndStreams):
            continue
        signal.signal(signum, EndStreams(current))
