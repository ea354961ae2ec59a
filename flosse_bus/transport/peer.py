"""The client of a blocking stream, as far as the server lets its socket be seen.

A client that does not read makes the stream's thread wait in a write for as long as it likes, and
one that has vanished lets heartbeats pile up in the send buffer. Here is what ends both.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from ..background import LoopThread

#: Bytes that are written at once: whoever takes some of a big event is not given up.
PIECE = 65_536
#: Seconds that a client which takes nothing is given while the server stops.
FAREWELL = 0.25

#: What gunicorn's workers call it.
_KEYS = ("gunicorn.socket", "gunicorn.sock")


class Writer(Protocol):
    """The stream whose bytes are written."""

    @property
    def stopping(self) -> bool:
        """Is it being ended because the server stops?"""

    def give_up(self, reason: str) -> None:
        """Its client takes nothing any more. Called in the thread that watches."""


class Peer:
    """A context for each write, which is to say for each ``yield``; and then :meth:`close` it.

    A client that takes nothing for ``patience`` seconds is cut off, by ``thread``: to the
    server, which waits in a write, it has gone away then, and that it takes calmly.
    """

    def __init__(
        self, thread: LoopThread, writer: Writer, environ: Mapping[str, Any], patience: float
    ) -> None:
        self._thread = thread
        self._writer = writer
        self._socket: Any = next((environ[key] for key in _KEYS if key in environ), None)
        self._patience = patience
        # The server closes the socket after the stream: another one may get its number then.
        self._lock = threading.Lock()
        self._since: float | None = None
        if self._socket is not None:
            # More, so that it does not come first: a write that fails by it makes a traceback.
            limit_unacknowledged(self._socket, 2 * patience)
            thread.watch(self._check)

    def close(self) -> None:
        """The stream is over. The server may yet end the response, and wait for another request."""
        self._thread.unwatch(self._check)
        # Not while it stops: it would wait for a client that keeps its connection.
        if self._socket is not None and self._writer.stopping:
            self._shut_down(socket.SHUT_RD)

    def __enter__(self) -> None:
        if self._socket is not None:
            # Take note of an error, so that the write will only say that the connection is gone.
            with contextlib.suppress(OSError):
                self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._since = time.monotonic()

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._since = None

    def _check(self, now: float) -> None:
        patience = FAREWELL if self._writer.stopping else self._patience
        with self._lock:
            if self._since is None or now - self._since < patience:
                return
            self._since = None
            self._shut_down(socket.SHUT_RDWR)
        self._writer.give_up("send timeout")

    def _shut_down(self, how: int) -> None:
        # On a socket of its own: a TLS socket would go on in plain text, and gevent's would tell
        # who waits for it that the file is closed.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._socket.fileno())) as s:
            s.settimeout(self._socket.gettimeout())  # both share what a default has made of it
            s.shutdown(how)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Return ``data`` in parts of at most ``size`` bytes, each to be written on its own."""
    if len(data) <= size:
        return iter((data,))
    return (data[start : start + size] for start in range(0, len(data), size))


def limit_unacknowledged(peer: Any, seconds: float) -> None:
    """Let the kernel drop a client that acknowledges nothing for so long (tcp(7), Linux).

    A heartbeat fits into the send buffer of a peer that has vanished. Without this it would take
    some 15 minutes of retransmissions to find out.
    """
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    if peer.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))
