"""Clients that are there no more, and clients that read no more: neither stays, nor holds a server."""

from __future__ import annotations

import signal

import pytest

from flosse_bus import bus
from tests.processes import Project, children_of, lives, wait_until
from tests.servers.test_servers import streams
from tests.streams_client import Streams

pytestmark = pytest.mark.server

#: How those are told whose command names no address.
EVERYWHERE = {"uvicorn": "--host=0.0.0.0", "daphne": "--bind=0.0.0.0", "granian": "--host=0.0.0.0"}


def listen_everywhere(monkeypatch, kind):
    command = [part.replace("127.0.0.1", "0.0.0.0") for part in Project.COMMANDS[kind]]
    command += [EVERYWHERE[key] for key in EVERYWHERE if kind in (key, f"{key}-h11")]
    monkeypatch.setitem(Project.COMMANDS, kind, command)


@pytest.mark.parametrize("kind", ["uvicorn", "daphne", "hypercorn"])
def test_a_client_that_has_vanished_is_noticed(serve, http, cable, monkeypatch, kind):
    listen_everywhere(monkeypatch, kind)
    server = serve(kind, bus={"HEARTBEAT": 0.2, "SEND_TIMEOUT": 1})
    with Streams(server.port) as clients:
        clients.begin("orders", count=10, socks=cable.connect(server.port, 10))
        assert streams(http, server.url) == 10
        cable.cut()
        wait_until(lambda: streams(http, server.url) == 0, "the server to miss them", deadline=20)
        http.close()
        assert server.stop(signal.SIGTERM) < 10


def fill(clients, reading, first=0):
    """Publish more than buffers hold, and wait until whoever reads has it."""
    for n in range(first, first + 10):
        bus.publish("load.big", [n, "x" * 900_000])
    wait_until(lambda: all(len(s.events) == first + 10 for s in reading), "what is big")
    assert [data[0] for data in reading[0].data] == list(range(first + 10))


@pytest.mark.parametrize("kind", ["uvicorn", "uvicorn-h11", "daphne", "hypercorn", "granian"])
def test_a_client_that_reads_no_more_is_given_up(serve, http, shared_bus, kind):
    server = serve(kind, bus={**shared_bus, "SEND_TIMEOUT": 1})
    with Streams(server.port) as clients:
        reading = clients.begin("load.big", count=3)
        clients.stalled("load.big", count=3)
        fill(clients, reading)
        wait_until(lambda: streams(http, server.url) == 3, "its place to be free", deadline=20)
        assert not any(stream.end for stream in reading)
        fill(clients, reading, 10)
        if kind == "granian":  # keeps the connection, and waits for it when it stops
            return
        http.close()
        assert server.stop(signal.SIGTERM) < 10
        wait_until(lambda: all(stream.end for stream in reading), "the streams to end")


@pytest.mark.parametrize("kind", ["uvicorn", "daphne", "hypercorn", "granian"])
def test_a_client_that_reads_no_more_does_not_hold_a_server_that_stops(
    serve, http, shared_bus, monkeypatch, kind
):
    if kind == "granian":
        command = [*Project.COMMANDS[kind], "--workers-kill-timeout=2"]
        monkeypatch.setitem(Project.COMMANDS, kind, command)
    server = serve(kind, bus=shared_bus)
    with Streams(server.port) as clients:
        reading = clients.begin("load.big", count=3)
        clients.stalled("load.big", count=3)
        fill(clients, reading)
        http.close()
        workers = children_of(server.pid)
        assert server.stop(signal.SIGTERM) < 10
        wait_until(lambda: not any(map(lives, workers)), "the workers to be gone")
        wait_until(lambda: all(stream.end for stream in reading), "the streams to end")
        assert {stream.end for stream in reading} == {"clean"}
