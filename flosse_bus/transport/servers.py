"""What is behind an ASGI server's ``send``, where the server lets it be seen.

ASGI has no word for "drop this client", and hypercorn tells its workers by an event of its own and
no signal that they must stop. Both are found on the objects that ``send`` belongs to. They are only
looked at, also from within middleware, and where they are not found the stream goes on without: see
docs/servers.md.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple, cast

from django.core.handlers.asgi import ASGIHandler

from . import diag
from .progress import Progress, teller

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: How far to look: hypercorn's stream, protocol and connection, behind some middleware.
_FAR = 20


class Connection(NamedTuple):
    """What the server writes to."""

    socket: Any
    #: Close it at once, whatever the client has not yet been sent. ``None``: it is not for this
    #: stream alone.
    drop: Callable[[], object] | None
    #: How many bytes the server holds back, where it tells.
    buffered: Callable[[], int] | None = None
    #: How many of them are this stream's, if it is not alone there.
    own: Callable[[], int] | None = None
    #: What the kernel knows of it.
    tell: Callable[[], bytes | None] | None = None

    def progress(self) -> Progress:
        return Progress(self.tell, self.buffered, self.own)


def find_connection(send: Send, scope: Mapping[str, Any]) -> Connection | None:
    """Return the connection: uvicorn and hypercorn have asyncio's transports, daphne Twisted's.

    granian shows none, but says between whom it is, so that the kernel can be asked.
    """
    # The client may have other requests on it with HTTP/2.
    shared = not scope.get("http_version", "1.1").startswith("1")
    own: Callable[[], int] | None = None
    if shared:
        own = _stream_buffer(send) or int
    for owner in _behind(send):
        transport: Any = getattr(owner, "transport", None)
        if transport is None:
            transport = getattr(getattr(owner, "writer", None), "transport", None)
        if callable(getattr(transport, "abort", None)):
            peer = transport.get_extra_info("socket")
            drop = None if shared else transport.abort
            return _connection(peer, drop, getattr(transport, "get_write_buffer_size", None), own)
        if callable(getattr(transport, "abortConnection", None)):
            plain = getattr(transport, "transport", transport)  # what is below TLS
            peer = getattr(plain, "getHandle", lambda: None)()
            return _connection(peer, None if shared else transport.abortConnection, None, own)
    tell = diag.teller(scope.get("server"), scope.get("client"))
    return None if tell is None else Connection(None, None, None, own, tell)


def _connection(
    peer: Any,
    drop: Callable[[], object] | None,
    buffered: Callable[[], int] | None,
    own: Callable[[], int] | None,
) -> Connection:
    is_socket = hasattr(peer, "family") and hasattr(peer, "setsockopt")
    if not is_socket:
        return Connection(None, drop, buffered, own)
    return Connection(peer, drop, buffered, own, teller(peer))


def _stream_buffer(send: Send) -> Callable[[], int] | None:
    """Return what tells how much of one stream of HTTP/2 waits, if it is hypercorn's."""
    number = None
    for owner in _behind(send):
        number = getattr(owner, "stream_id", number)
        buffers = getattr(owner, "stream_buffers", None)
        if number is not None and isinstance(buffers, dict):
            return lambda: len(getattr(buffers.get(number), "buffer", b""))
    return None


def find_stock_connection() -> Connection | None:
    """Return the same where Django's own ASGI handler iterates a response, in the frames of which
    is the server's ``send``.
    """
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is ASGIHandler.send_response.__code__:
            request = None if frame.f_back is None else frame.f_back.f_locals.get("request")
            scope = getattr(request, "scope", None)
            return None if scope is None else find_connection(frame.f_locals["send"], scope)
        frame = frame.f_back
    return None


def find_stopping(send: Send) -> Callable[[], Awaitable[Any]] | None:
    """Return what waits until the server has been told to stop, if it is hypercorn."""
    for owner in _behind(send):
        terminated = getattr(getattr(owner, "context", None), "terminated", None)
        wait = getattr(terminated, "wait", None)
        if callable(wait):
            return cast(Callable[[], Awaitable[Any]], wait)
    return None


def _behind(send: Any) -> Iterator[Any]:
    """Yield the objects that a ``send`` belongs to, is made in or passes messages on to."""
    found, seen = [send], set()
    for one in found:
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if len(seen) > _FAR:
            return
        if isinstance(one, functools.partial):
            found += [*one.args[:1], one.keywords.get("send"), one.func]
        elif isinstance(one, types.FunctionType):
            cells = dict(zip(one.__code__.co_freevars, one.__closure__ or (), strict=True))
            with contextlib.suppress(ValueError):  # an empty one
                found += [cells[name].cell_contents for name in ("send", "self") if name in cells]
        elif isinstance(one, (types.MethodType, types.BuiltinMethodType)):
            found.append(one.__self__)
        else:
            yield one
            found.append(getattr(one, "send", None))
