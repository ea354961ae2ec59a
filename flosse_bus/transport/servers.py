"""What is behind an ASGI server's ``send``, where the server lets it be seen.

ASGI has no word for "drop this client", and hypercorn tells its workers by an event of its own and
no signal that they must stop. Both are found on the objects that ``send`` belongs to. They are only
looked at, also from within middleware, and where they are not found the stream goes on without: see
docs/servers.md.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, NamedTuple, cast

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: How far to look: hypercorn's stream, protocol and connection, behind some middleware.
_FAR = 20


class Connection(NamedTuple):
    """What the server writes to."""

    socket: Any
    #: Close it at once, whatever the client has not yet been sent. ``None``: it is not for this
    #: stream alone.
    drop: Callable[[], object] | None


def find_connection(send: Send, *, shared: bool) -> Connection | None:
    """Return the connection: uvicorn and hypercorn have asyncio's transports, daphne Twisted's.

    ``shared``: the client may have other requests on it, as HTTP/2 allows.
    """
    for owner in _behind(send):
        transport: Any = getattr(owner, "transport", None)
        if transport is None:
            transport = getattr(getattr(owner, "writer", None), "transport", None)
        if callable(getattr(transport, "abort", None)):
            return _connection(
                transport.get_extra_info("socket"), None if shared else transport.abort
            )
        if callable(getattr(transport, "abortConnection", None)):
            plain = getattr(transport, "transport", transport)  # what is below TLS
            peer = getattr(plain, "getHandle", lambda: None)()
            return _connection(peer, None if shared else transport.abortConnection)
    return None


def _connection(peer: Any, drop: Callable[[], object] | None) -> Connection:
    is_socket = hasattr(peer, "family") and hasattr(peer, "setsockopt")
    return Connection(peer if is_socket else None, drop)


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
