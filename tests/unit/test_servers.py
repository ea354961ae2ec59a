"""What is found behind a server's ``send``. With real servers: tests/servers/test_dead_readers.py."""

from __future__ import annotations

import functools
import socket
from types import SimpleNamespace

import pytest

from flosse_bus.transport.servers import find_connection, find_stopping


class Object(SimpleNamespace):
    """Something with attributes, whose method is a ``send``."""

    async def method(self, message):
        pytest.fail("it is only looked at")


def nested(self):
    """Return a ``send`` as gunicorn makes it."""

    async def send(message):
        return self

    return send


@pytest.fixture
def sock():
    with socket.socket() as sock:
        yield sock


def asyncio_transport(sock):
    return Object(abort=lambda: "dropped", get_extra_info={"socket": sock}.get)


def twisted_transport(sock, *, tls=False):
    tcp = Object(abortConnection=lambda: "dropped", getHandle=lambda: sock)
    if not tls:
        return tcp
    return Object(
        abortConnection=tcp.abortConnection, getHandle=lambda: "a TLS state", transport=tcp
    )


@pytest.mark.parametrize(
    "server", ["uvicorn", "hypercorn", "gunicorn", "daphne", "daphne with TLS"]
)
def test_connections_are_found(server, sock):
    if server == "uvicorn":
        send = Object(transport=asyncio_transport(sock)).method
    elif server == "hypercorn":
        tcp = Object(writer=Object(transport=asyncio_transport(sock)))
        send = Object(send=Object(send=tcp.method).method).method
    elif server == "gunicorn":
        send = nested(Object(transport=asyncio_transport(sock), writer=Object()))
    else:
        request = Object(transport=twisted_transport(sock, tls="TLS" in server))
        send = functools.partial(Object().method, request)
    connection = find_connection(send, {})
    assert connection.socket is sock
    assert connection.drop() == "dropped"
    # With HTTP/2 others may be on it.
    shared = find_connection(send, {"http_version": "2"})
    assert (shared.socket, shared.drop) == (sock, None)


def wrapped(send):
    async def wrapper(message):
        await send(message)

    return wrapper


@pytest.mark.parametrize(
    "wrap",
    [
        wrapped,
        lambda send: wrapped(wrapped(wrapped(send))),
        lambda send: functools.partial(Object().method, send=send),
        lambda send: functools.partial(send, more=1),
        lambda send: Object(send=send).method,
    ],
)
def test_middleware_is_looked_through(wrap, sock):
    context = Object(terminated=Object(wait=lambda: "stopped"))
    tcp = Object(writer=Object(transport=asyncio_transport(sock)))
    send = wrap(Object(send=Object(send=tcp.method).method, context=context).method)
    assert find_connection(send, {}).socket is sock
    assert find_stopping(send)() == "stopped"


def test_what_shows_no_socket_can_still_be_dropped():
    transport = Object(abortConnection=lambda: "dropped")
    connection = find_connection(Object(transport=transport).method, {})
    assert (connection.socket, connection.drop()) == (None, "dropped")


def endless():
    one = Object()
    one.send = one.method
    return one.method


@pytest.mark.parametrize(
    "send",
    [
        Object().method,
        endless(),
        Object(transport=None, writer=None, send=None).method,
        Object(send=Object(transport=1).method).method,
        [].append,
        functools.partial(print),
        functools.partial(print, 1),
        nested(None),
        print,
        Object(),
    ],
)
def test_elsewhere_nothing_is_found(send):
    assert find_connection(send, {}) is None
    assert find_stopping(send) is None


def test_hypercorn_says_when_it_stops():
    terminated = Object(wait=lambda: "stopped")
    send = Object(context=Object(terminated=terminated)).method
    assert find_stopping(send)() == "stopped"
