"""The client of a blocking stream, as far as the server lets its socket be seen.

A client that does not read makes the stream's thread wait in a write for as long as it likes, and
one that has vanished lets heartbeats pile up in the send buffer. Here is what ends both.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from ..background import LoopThread
from .progress import Presence, Progress, teller

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
    server, which waits in a write or will write again, it has gone away then, and that it takes
    calmly.
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
        self._progress = Progress(teller(self._socket))
        self._presence = Presence(teller(self._socket))
        self._writing = False
        if self._socket is not None:
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
        self._progress.begin()
        self._writing = True

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._writing = False

    def _check(self, now: float) -> None:
        with self._lock:
            if not self._holds_up(now):
                return
            self._thread.unwatch(self._check)
            self._shut_down(socket.SHUT_RDWR)
            hang_up(self._socket)
        self._writer.give_up("send timeout")

    def _holds_up(self, now: float) -> bool:
        if self._writing and self._writer.stopping:
            # However much it takes meanwhile: what has been written may last it for minutes.
            return self._progress.waited(now) >= FAREWELL
        if self._writing and self._progress.idle(now) >= self._patience:
            return True
        return self._presence.silent(now) >= self._patience

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


def hang_up(peer: Any) -> None:
    """Let the kernel forget a client soon that has been given up (tcp(7), Linux).

    Else it tries for some 15 minutes to send what has been written. Not before: the time would run
    out for a client that is slow, too. It begins anew only when the client has room for a whole
    packet as the sender counts them, which are of 64 KiB.
    """
    if getattr(peer, "family", None) in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(FAREWELL * 1000))
