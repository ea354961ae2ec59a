"""What is behind an ASGI server's ``send``, where the server lets it be seen.

ASGI has no word for "drop this client", and hypercorn tells its workers by an event of its own and
no signal that they must stop. Both are found on the objects that ``send`` belongs to. They are only
looked at, and where they are not found the stream goes on without: see docs/deployment.md.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: From hypercorn's stream to its protocol to its connection.
_HOPS = 3


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
    owner = _owner(send)
    for _ in range(_HOPS):
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
        owner = _owner(getattr(owner, "send", None))
    return None


def _connection(peer: Any, drop: Callable[[], object] | None) -> Connection:
    is_socket = hasattr(peer, "family") and hasattr(peer, "setsockopt")
    return Connection(peer if is_socket else None, drop)


def find_stopping(send: Send) -> Callable[[], Awaitable[Any]] | None:
    """Return what waits until the server has been told to stop, if it is hypercorn."""
    terminated = getattr(getattr(_owner(send), "context", None), "terminated", None)
    wait = getattr(terminated, "wait", None)
    return wait if callable(wait) else None


def _owner(function: Any) -> Any:
    """Return what a function is a method of, was given first (daphne) or was made in (gunicorn)."""
    if isinstance(function, functools.partial):
        return function.args[0] if function.args else None
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    if "self" in names:
        return function.__closure__[names.index("self")].cell_contents
    return getattr(function, "__self__", None)
