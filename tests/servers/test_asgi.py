"""Every ASGI server: many streams, none of which holds a thread, or the server when it stops."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

import pytest

from tests.processes import ASGI, Project, children_of, lives, wait_until
from tests.servers.test_servers import place, streams
from tests.streams_client import Streams

pytestmark = pytest.mark.server

KINDS = [
    "uvicorn", "uvicorn-h11", "uvicorn-worker", "asgi-worker", "daphne", "hypercorn", "granian",
]  # fmt: skip


@pytest.fixture(params=KINDS)
def kind(request):
    if request.param == "asgi-worker":
        pytest.importorskip("gunicorn.asgi", reason="this gunicorn has no ASGI worker of its own")
    return request.param


def items(stream):
    return [data["fields"]["item"] for data in stream.data]


def threads(server):
    """Return how many threads a server has, workers and all."""
    pids = [server.pid, *children_of(server.pid)]
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids)


@contextlib.contextmanager
def stopping(server, clients):
    """Inside, tell the server to stop. It must be gone soon, and quietly, and its streams ended."""
    workers = children_of(server.pid)
    open_streams = [stream for stream in clients.all if not stream.end]
    yield
    server.process.wait(10)
    wait_until(lambda: not any(map(lives, workers)), "its workers to end")
    wait_until(lambda: all(stream.end for stream in open_streams), "the streams to end")
    assert {stream.end for stream in open_streams} == {"clean"}
    log = server.output()
    assert not re.search(r"Traceback|ERROR|CRITICAL|never retrieved|never awaited", log), log[
        -5000:
    ]
    if "Starting granian" not in log:  # which may end its loop before the last of its requests
        assert log.count("stream opened") == log.count("stream closed")


def test_500_streams_from_the_first_event_to_the_stop(serve, http, kind):
    server = serve(kind, bus={"HEARTBEAT": 60})
    with Streams(server.port) as clients:
        clients.begin("orders")
        before = threads(server)
        made = clients.begin("orders", count=499)
        wait_until(lambda: threads(server) < before + 15, "threads to end with their requests")
        place(http, server.url)
        wait_until(lambda: all(items(s) == ["Kettle"] for s in clients.all), "500 streams to hear")

        gone, stay = made[:50], made[50:]
        clients.cut(*gone)
        # No heartbeat has told the server: it is told by the connection.
        wait_until(lambda: streams(http, server.url) == 450, "the server to miss 50 clients")
        place(http, server.url, "Grinder")
        again = clients.begin("orders", count=50, after=gone[0].last_id)
        place(http, server.url, "Cup and saucer")
        missed = ["Grinder", "Cup and saucer"]
        wait_until(lambda: all(items(s) == missed for s in again), "what was missed")
        wait_until(lambda: all(items(s) == ["Kettle", *missed] for s in stay), "all of it")

        # A connection without a request, that of ``http``, holds no server either.
        with stopping(server, clients):
            server.process.send_signal(signal.SIGTERM)


@pytest.mark.measured
def test_ctrl_c_is_heard_by_the_project_and_by_the_server(serve, http, kind, monkeypatch):
    command = Project.COMMANDS[kind]
    command = [part.replace(ASGI, "tests.lab.handlers:application") for part in command]
    monkeypatch.setitem(Project.COMMANDS, kind, command)
    server = serve(kind)
    with Streams(server.port) as clients:
        clients.begin("orders", count=3)
        http.get(f"{server.url}/events/health/?listen")
        clients.begin("orders", count=3)
        with stopping(server, clients):
            if kind == "granian":  # which passes it on, and may hang where its worker hears both
                server.process.send_signal(signal.SIGINT)
            else:
                os.killpg(server.pid, signal.SIGINT)  # as a terminal does
    heard = "SIGTERM" if kind == "granian" else "SIGINT"
    for handler in ("the first request", "a later request"):
        assert f"{handler} has heard {heard}" in server.output()
