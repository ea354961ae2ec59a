"""How long a client has taken nothing of what was written to it.

What counts is bytes, and not a write that has come to its end: once its buffer is full the kernel
takes no more before a third of it is free, for which a slow client may need minutes.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

#: Of ``struct tcp_info`` (linux/tcp.h): segments in flight, those of them that have arrived while
#: one before them was lost, bytes acknowledged, bytes not sent yet.
_FIELDS = struct.Struct("=24xII88xQ16xI")
_IN_FLIGHT, _NOT_SENT = 0, 3
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Progress:
    """What the kernel and the server tell about one client.

    ``tell``: returns the kernel's ``tcp_info`` of its connection. ``buffered``: returns how many
    bytes the server holds back for that. ``own``: returns how many bytes of this stream it holds
    back, where others are sent over the same connection: what these take says nothing about this
    one, unless all of them wait for the connection. Each may be ``None``.
    """

    __slots__ = ("_acknowledged", "_began", "_buffered", "_own", "_owned", "_since", "_tell")

    def __init__(
        self,
        tell: Callable[[], bytes | None] | None = None,
        buffered: Callable[[], int] | None = None,
        own: Callable[[], int] | None = None,
    ) -> None:
        self._tell = tell
        self._buffered = buffered
        self._own = own
        self._began = self._since = 0.0
        self._acknowledged: int | tuple[int, int] | None = None
        self._owned: int | None = None

    def begin(self) -> None:
        """From now on something waits to be taken."""
        self._began = self._since = time.monotonic()
        self._acknowledged = self._owned = None

    def waited(self, now: float) -> float:
        """Return the seconds since :meth:`begin`."""
        return now - self._began

    def idle(self, now: float) -> float:
        """Return the seconds for which nothing has been taken, as far as it was looked at."""
        acknowledged = self._taken()
        owned = None if self._own is None else self._own()
        before, self._acknowledged = self._acknowledged, acknowledged
        owned_before, self._owned = self._owned, owned
        if (None not in (before, acknowledged) and before != acknowledged) or (
            None not in (owned_before, owned) and owned_before != owned
        ):
            self._since = now
        return now - self._since

    def _taken(self) -> int | tuple[int, int] | None:
        buffered = None if self._buffered is None else self._buffered()
        if self._own is not None and not buffered:
            return None
        info = _read(self._tell)
        return buffered if info is None else info[1:3]


class Presence:
    """Whether a client is still there that has been written to, though no write waits for it.

    A heartbeat fits into the kernel's buffer, and many more. ``tell``: see :class:`Progress`.
    """

    __slots__ = ("_progress", "_tell")

    def __init__(self, tell: Callable[[], bytes | None] | None) -> None:
        self._tell = tell
        #: Since when something waits to be acknowledged.
        self._progress: Progress | None = None

    @property
    def doubtful(self) -> bool:
        """Was anything not acknowledged when it was looked at last, and nothing else either?"""
        return self._progress is not None

    def silent(self, now: float) -> float:
        """Return the seconds for which something waits to be acknowledged, and nothing has been."""
        info = _read(self._tell)
        if info is None or not (info[_IN_FLIGHT] or info[_NOT_SENT]):
            self._progress = None
            return 0.0
        if self._progress is None:
            self._progress = Progress(self._tell)
            self._progress.begin()
            self._progress.idle(now)
            return 0.0
        silent = self._progress.idle(now)
        if silent == 0:
            self._progress = None
        return silent


def _read(tell: Callable[[], bytes | None] | None) -> tuple[int, int, int, int] | None:
    info = None if tell is None else tell()
    if info is None or len(info) < _FIELDS.size:
        return None
    return cast(tuple[int, int, int, int], _FIELDS.unpack_from(info))


def teller(peer: Any) -> Callable[[], bytes | None] | None:
    """Return what asks the kernel (Linux 4.6 or newer) about a socket, if that can be asked."""
    if sys.platform != "linux" or getattr(peer, "family", None) not in _FAMILIES:
        return None
    return partial(_ask, peer)


def _ask(peer: Any) -> bytes | None:
    # The server may have closed it just now; uvloop says so with a ValueError.
    with contextlib.suppress(OSError, ValueError):
        info: bytes = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _FIELDS.size)
        return info
    return None
