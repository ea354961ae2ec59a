"""A server that is told to stop while its first streams are on their way."""

from __future__ import annotations

import socket

import pytest

from tests.servers.test_asgi import KINDS

pytestmark = pytest.mark.server

REQUEST = (
    b"GET /events/?topic=load.x HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
)
STREAMS = 20


@pytest.mark.parametrize("kind", [*KINDS, "gthread", "gevent"])
def test_streams_that_open_as_the_server_stops_do_not_hold_it(serve, http, kind):
    server = serve(kind)
    http.get(f"{server.url}/login/")  # it has begun, but no stream or bus has been needed
    address = ("127.0.0.1", server.port)
    clients = [socket.create_connection(address, timeout=20) for _ in range(STREAMS)]
    try:
        for client in clients:
            client.sendall(REQUEST)
        assert server.stop() < 10
    finally:
        for client in clients:
            client.close()
