"""Clients go in every way there is, and the server stops: nobody logs more than what happened."""

from __future__ import annotations

import re
import signal
import socket
import struct
from collections import Counter

import pytest

from flosse_bus import bus
from tests.processes import ASGI, Project, children_of, lives, wait_until
from tests.servers.test_servers import streams
from tests.streams_client import Streams

pytestmark = pytest.mark.server

UNDER_ASGI = [
    "uvicorn", "uvicorn-h11", "uvicorn-worker", "asgi-worker", "daphne", "hypercorn", "granian",
]  # fmt: skip
UNDER_WSGI = ["gthread", "gevent", "uwsgi", "runserver"]

OURS = re.compile(r"INFO flosse_bus: stream (?:opened on|closed after [\d.]+ s and \d+ events) .*")
#: What no line of the log may say.
NOISE = re.compile(
    r"traceback|error|exception|warning|critical|cancelled|broken pipe|never (?:retrieved|awaited)"
    r"|destroyed|unclosed|flosse_bus",
    re.IGNORECASE,
)
#: asyncio's debugging mode says so wherever the machine is busy.
SLOW = re.compile(r"Executing <.* took [\d.]+ seconds$")
#: What servers have to say of it themselves. See docs/logging.md.
THEIRS = {
    "uvicorn-worker": [r"\[INFO\] Error while closing socket \[Errno 9\] Bad file descriptor"],
    "granian": [r"\[INFO\] ASGI transport error: "],
    "uwsgi": [
        r"^uWSGI running as root|^\*\*\* WARNING: you are running uWSGI as root",
        r"uwsgi_(?:response|proto)_\w+\(\): (?:Broken pipe|Connection reset by peer) ",
        r"^OSError: write error$",
    ],
    "runserver": [
        r"WARNING: This is a development server",
        r" - Broken pipe from \('127\.0\.0\.1'",
    ],
}
#: Where streams are cut off when the server stops, and say nothing any more.
CUT = ["uwsgi", "runserver"]


def cut(sock):
    """Go without a goodbye: a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Rude:
    """Clients that go when it is least expected."""

    def __init__(self, port, path):
        self._address = ("127.0.0.1", port)
        self._path = path

    def _ask(self, *, method="GET", room=None):
        sock = socket.socket()
        if room is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        sock.settimeout(20)
        sock.connect(self._address)
        request = f"{method} {self._path}?topic=load.big HTTP/1.1\r\nHost: localhost\r\n\r\n"
        sock.sendall(request.encode())
        return sock

    def _begin(self, **kwargs):
        sock = self._ask(**kwargs)
        head = b""
        while b"\nid: " not in head:
            got = sock.recv(4096)
            assert got, head
            head += got
        return sock

    def come_and_go(self):
        """Return how many streams have certainly begun."""
        for go in (cut, socket.socket.close):
            before = [self._ask() for _ in range(2)]
            for sock in before:
                go(sock)
            in_the_head = self._ask()
            in_the_head.recv(1)
            go(in_the_head)
            go(self._ask(method="HEAD"))
            go(self._begin())
        slow = [self._begin(room=4096) for _ in range(4)]
        for number in range(4):
            bus.publish("load.big", [number, "x" * 900_000], using=None)
        for sock in slow:
            sock.recv(65_536)
        for go, sock in zip([cut, socket.socket.close] * 2, slow, strict=True):
            go(sock)
        return 2 + len(slow)


@pytest.mark.parametrize("kind", [*UNDER_ASGI, *UNDER_WSGI])
def test_nothing_but_what_happened_is_logged(serve, http, shared_bus, monkeypatch, kind):
    paths = ["/events/"]
    if kind in UNDER_ASGI:
        paths.append("/stock/events/")
        command = [
            part.replace(ASGI, "tests.lab.both:application") for part in Project.COMMANDS[kind]
        ]
        monkeypatch.setitem(Project.COMMANDS, kind, command)
    if kind == "asgi-worker":
        pytest.importorskip("gunicorn.asgi", reason="this gunicorn has no ASGI worker of its own")
    server = serve(kind, bus={**shared_bus, "HEARTBEAT": 0.1}, env={"PYTHONDEVMODE": "1"})
    begun = sum([Rude(server.port, path).come_and_go() for path in paths])
    wait_until(lambda: streams(http, server.url) == 0, "the server to miss them all")
    with Streams(server.port) as clients:
        if kind == "hypercorn":  # cuts those off when it stops, with tracebacks
            paths.remove("/stock/events/")
        for path in paths:
            clients.begin("orders", count=3, path=path)
        bus.publish("orders", "secret", using=None)
        wait_until(lambda: all(stream.events for stream in clients.all), "an event for all")
        http.close()
        workers = children_of(server.pid)
        assert server.stop(signal.SIGTERM) < 10
        wait_until(lambda: not any(map(lives, workers)), "its workers to end")

    ours, others, known = [], [], [SLOW, *THEIRS.get(kind, ())]
    for line in server.output().splitlines():
        found = OURS.search(line)
        if found:
            ours.append(found[0])
        elif NOISE.search(line) and not any(re.search(own, line) for own in known):
            others.append(line)
    assert others == []
    opened = sum("opened on" in line for line in ours)
    reasons = Counter(re.findall(r"\((.+)\) on", "\n".join(ours)))
    last = len(clients.all)
    assert opened >= begun + last
    assert reasons["client gone"] == opened - last
    assert reasons["shutdown"] == (0 if kind in CUT else last)
    assert "secret" not in "\n".join(ours)
