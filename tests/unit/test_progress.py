"""Whether a client takes anything: what counts, with the kernel's own word for real sockets."""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time

import pytest

from flosse_bus.transport import diag
from flosse_bus.transport.progress import Presence, Progress, teller
from tests.processes import wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@pytest.fixture
def ends():
    """A connection, the server's end first, whose client has room for little."""
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            yield server, client


@pytest.fixture
def full(ends):
    """The same, and the server has written more than that."""
    server, _ = ends
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            server.send(b"x" * 65_536)
    return ends


@linux
@pytest.mark.parametrize("ask", ["socket", "ends"])
def test_a_client_that_reads_some_takes_something_though_nothing_can_be_written(full, ask):
    server, client = full
    tell = teller(server)
    if ask == "ends":
        tell = diag.teller(server.getsockname(), server.getpeername())
    progress = Progress(tell)
    progress.begin()
    progress.idle(time.monotonic())
    client.recv(4096, socket.MSG_WAITALL)
    client.recv(4096, socket.MSG_WAITALL)
    wait_until(lambda: progress.idle(time.monotonic()) == 0, "that to be seen")
    assert select.select([], [server], [], 0)[1] == []


@linux
def test_a_client_that_reads_nothing_takes_nothing(full):
    server, _ = full
    progress, presence = Progress(teller(server)), Presence(teller(server))
    progress.begin()
    progress.idle(time.monotonic())
    wait_until(lambda: progress.idle(time.monotonic()) > 0.5, "half a second without progress")
    wait_until(lambda: presence.silent(time.monotonic()) > 0.5, "half a second without a sign")
    assert presence.doubtful


@linux
def test_one_that_has_acknowledged_all_is_there(ends):
    server, _ = ends
    presence = Presence(teller(server))
    server.send(b"x")
    wait_until(lambda: not presence.silent(time.monotonic()), "the kernel to acknowledge")
    assert presence.silent(time.monotonic() + 100) == 0
    assert not presence.doubtful


@linux
def test_one_that_takes_some_is_there(full):
    server, client = full
    presence = Presence(teller(server))
    wait_until(lambda: presence.silent(time.monotonic()) > 0.1, "it to be doubtful")
    client.recv(4096, socket.MSG_WAITALL)
    client.recv(4096, socket.MSG_WAITALL)
    wait_until(lambda: presence.silent(time.monotonic()) == 0, "a sign")
    assert not presence.doubtful


@linux
@pytest.mark.parametrize(
    ("here", "there"),
    [
        (None, ("127.0.0.1", 1)),
        (("/run/socket", None), None),
        (("127.0.0.1", 1), ("127.0.0.1", 0)),
        (("127.0.0.1", 70_000), ("127.0.0.1", 1)),
        (("::1", 1), ("127.0.0.1", 1)),
        (("example.com", 1), ("127.0.0.1", 1)),
    ],
)
def test_of_what_is_no_connection_nothing_is_told(here, there):
    assert diag.teller(here, there) is None


@linux
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_ends_are_those_of_a_connection_and_not_of_who_listens(ends, host):
    server, _ = ends
    (_, port), there = server.getsockname(), server.getpeername()
    assert diag.teller((host, str(port)), there) is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert diag.teller((host, listener.getsockname()[1]), there) is None


def infos(*acknowledged):
    """Return what tells these numbers of bytes, one after the other."""
    answers = iter([n.to_bytes(8, sys.byteorder) for n in acknowledged])
    return lambda: bytes(120) + next(answers) + bytes(20)


@pytest.mark.parametrize(
    ("acknowledged", "buffered", "own", "taken"),
    [
        # Alone on its connection.
        ((5, 6), None, None, True),
        ((5, 5), None, None, False),
        ((5, 5), (9, 8), None, False),
        (None, (9, 8), None, True),
        (None, (9, 9), None, False),
        (None, None, None, False),
        # One of several: the others take something, and nothing waits for the connection.
        ((5, 6), (0, 0), (9, 9), False),
        ((5, 6), (0, 3), (9, 9), False),
        # The connection is what they wait for.
        ((5, 6), (3, 3), (9, 9), True),
        ((5, 5), (3, 3), (9, 9), False),
        # Its own share gets smaller.
        ((5, 5), (0, 0), (9, 8), True),
    ],
)
def test_what_counts(acknowledged, buffered, own, taken):
    def one_by_one(values):
        return None if values is None else iter(values).__next__

    tell = None if acknowledged is None else infos(*acknowledged)
    progress = Progress(tell, one_by_one(buffered), one_by_one(own))
    progress.begin()
    now = time.monotonic()
    assert progress.idle(now + 1) > 0.5
    assert (progress.idle(now + 2) == 0) is taken
