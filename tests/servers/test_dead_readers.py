"""Clients that are there no more, and clients that read no more: neither stays, nor holds a server."""

from __future__ import annotations

import signal

import pytest

from flosse_bus import bus
from tests import TORTURE
from tests.processes import Project, children_of, lives, wait_until
from tests.servers.test_servers import streams
from tests.streams_client import Slow, Streams

pytestmark = pytest.mark.server

#: How those are told whose command names no address.
EVERYWHERE = {
    "uvicorn": "--host=0.0.0.0",
    "daphne": "--bind=0.0.0.0",
    "granian": "--host=0.0.0.0 --workers-kill-timeout=2",
}


#: What make torture tries beside what make test does.
OTHERS = [
    "uvicorn-h11", "uvicorn-worker", "asgi-worker", "daphne", "hypercorn", "granian", "gevent", "stock"
]  # fmt: skip
STOCK = [
    part.replace("testproject.asgi", "tests.lab.stock") for part in Project.COMMANDS["uvicorn"]
]
#: Bytes a second, of a client that is slow and no more than that.
RATE = 8000


def command_of(kind):
    return STOCK if kind == "stock" else kind


def timeouts(http, url):
    return http.get(f"{url}/events/health/").json()["buses"]["default"]["counters"]["timeouts"]


@pytest.mark.measured
@pytest.mark.parametrize("kind", ["uvicorn", "gthread", *(OTHERS if TORTURE else [])])
def test_a_client_that_is_slow_is_kept(serve, http, shared_bus, kind):
    """Beside one that takes nothing: that one is given up, which is counted."""
    patience = 2
    server = serve(
        command_of(kind), bus={**shared_bus, "SEND_TIMEOUT": patience},
        env={"DJANGO_SETTINGS_MODULE": "tests.lab.settings"},
    )  # fmt: skip
    generated = Slow(server.port, path="/lab/async/big/slow/?megabytes=8", rate=RATE)
    slow = Slow(server.port, "load.big", rate=RATE)
    with Streams(server.port) as clients, slow, generated:
        clients.stalled("load.big")
        wait_until(lambda: streams(http, server.url) == 2, "the streams to open")
        wait_until(lambda: slow.taken, "the slow one to begin")
        for number in range(8):
            bus.publish("load.big", [number, "x" * 900_000])
        wait_until(lambda: timeouts(http, server.url) == 1, "the other to be given up")
        wait_until(lambda: streams(http, server.url) == 1, "its place to be free")
        enough = slow.taken + 2 * patience * RATE
        wait_until(lambda: slow.taken > enough or slow.ended, "the slow one to go on")
        assert not slow.ended, server.output()[-3000:]
        assert not generated.ended
        assert (streams(http, server.url), timeouts(http, server.url)) == (1, 1)


def listen_everywhere(kind):
    """Return the command of a server that is there for clients on other hosts, too."""
    known = command_of(kind)
    parts = Project.COMMANDS[known] if isinstance(known, str) else known
    command = [part.replace("127.0.0.1", "0.0.0.0") for part in parts]
    named = next((name for name in EVERYWHERE if parts[:2] == ["-m", name]), None)
    return command if named is None else [*command, *EVERYWHERE[named].split()]


@pytest.mark.parametrize("kind", ["uvicorn", "daphne", "hypercorn", "granian", "gthread", "stock"])
def test_a_client_that_has_vanished_is_noticed(serve, http, cable, kind):
    """Also while one heartbeat after the other finds its place in the kernel's buffer."""
    server = serve(listen_everywhere(kind), bus={"HEARTBEAT": 0.2, "SEND_TIMEOUT": 2})
    with Streams(server.port) as clients:
        clients.begin("orders", count=10, socks=cable.connect(server.port, 10))
        assert streams(http, server.url) == 10
        cable.cut()
        wait_until(lambda: streams(http, server.url) == 0, "the server to miss them", deadline=20)
        assert timeouts(http, server.url) == 10
        http.close()
        assert server.stop(signal.SIGTERM) < 10


@pytest.mark.skipif(not TORTURE, reason="only make torture runs it")
@pytest.mark.parametrize("options", [(), ("--socket-timeout=10", "--socket-sndbuf=65536")])
def test_uwsgi_keeps_one_that_is_slow_if_its_buffer_is_small(serve, http, shared_bus, options):
    """It counts for itself, from one write that it can make to the next."""
    server = serve([*Project.COMMANDS["uwsgi"], *options], bus=shared_bus)
    with Slow(server.port, "load.big", rate=RATE) as slow:
        wait_until(lambda: slow.taken, "the slow one to begin")
        for number in range(8):
            bus.publish("load.big", [number, "x" * 900_000])
        enough = slow.taken + 15 * RATE
        wait_until(lambda: slow.taken > enough or slow.ended, "the slow one to go on")
        kept = streams(http, server.url) == 1
        assert kept is bool(options)


@pytest.mark.parametrize("kind", ["uvicorn", *([*OTHERS, "gthread"] if TORTURE else [])])
def test_a_client_behind_a_bad_link_is_kept_until_it_vanishes(serve, http, unix_bus, radio, kind):
    """Half a second away, with a twentieth of the packets lost, at 64 kbit/s; then half-open."""
    patience = 6
    server = serve(
        listen_everywhere(kind), bus={**unix_bus, "SEND_TIMEOUT": patience, "HEARTBEAT": 1}
    )
    with Streams(server.port) as clients:
        [stream] = clients.begin("load.small", socks=radio.connect(server.port, 1))
        for number in range(150):
            bus.publish("load.small", [number, "x" * 4000])
        enough = int(1.5 * patience) * 64_000 // 8 // 4000
        wait_until(lambda: len(stream.events) >= enough or stream.end, "what takes its time", 60)
        assert not stream.end, server.output()[-3000:]
        assert [data[0] for data in stream.data] == list(range(len(stream.data)))
        assert radio.lost > 0
        assert (streams(http, server.url), timeouts(http, server.url)) == (1, 0)
        radio.cut()
        wait_until(lambda: streams(http, server.url) == 0, "the server to miss it")
        assert timeouts(http, server.url) == 1


def fill(clients, reading, first=0):
    """Publish more than buffers hold, and wait until whoever reads has it."""
    for n in range(first, first + 10):
        bus.publish("load.big", [n, "x" * 900_000])
    wait_until(lambda: all(len(s.events) == first + 10 for s in reading), "what is big")
    assert [data[0] for data in reading[0].data] == list(range(first + 10))


@pytest.mark.measured
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


@pytest.mark.measured
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
