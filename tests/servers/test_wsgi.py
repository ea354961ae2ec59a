"""Streams under blocking servers: a thread or a greenlet each, and no client can hold one for ever."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from flosse_bus import bus
from tests.processes import ROOT, children_of, lives, wait_until
from tests.proxies import DEPLOY
from tests.servers.test_servers import place, streams
from tests.streams_client import Streams

pytestmark = pytest.mark.server

#: The hooks in the gunicorn.conf.py of the documentation.
HOOKS = (DEPLOY / "gunicorn.conf.py").read_text().partition("\n\n\n")[2]


def items(stream):
    return [data["fields"]["item"] for data in stream.data]


def gunicorn(*options, hooks=None):
    """Return the environment that gives gunicorn these options."""
    if hooks is not None:
        (hooks / "gunicorn.conf.py").write_text(HOOKS)
        options = [*options, f"--config={hooks}/gunicorn.conf.py"]
    return {"GUNICORN_CMD_ARGS": " ".join(options)}


@pytest.mark.parametrize("kind", ["gthread --preload", "gevent", "uwsgi", "runserver"])
def test_fifty_streams_from_the_first_event_to_the_stop(serve, http, tmp_path, kind):
    kind, *options = kind.split()
    env = gunicorn(*options, hooks=tmp_path) if options else {}
    server = serve(kind, bus={"HEARTBEAT": 0.5}, env=env)
    with Streams(server.port) as clients:
        first, *others = clients.begin("orders", count=50)
        place(http, server.url)
        wait_until(lambda: all(items(s) == ["Kettle"] for s in clients.all), "50 streams to hear")
        clients.cut(first)
        wait_until(lambda: streams(http, server.url) == 49, "the server to miss one")
        place(http, server.url, "Grinder")
        [again] = clients.begin("orders", after=first.last_id)
        place(http, server.url, "Cup and saucer")
        wait_until(lambda: items(again) == ["Grinder", "Cup and saucer"], "what was missed")
        assert not any(stream.end for stream in others)
        http.close()
        workers = children_of(server.pid)
        assert server.stop(signal.SIGTERM) < 10
        wait_until(lambda: all(stream.end for stream in clients.all), "the streams to end")
        assert {stream.end for stream in [*others, again]} == {"clean"}
    assert not any(map(lives, workers))
    assert "Traceback" not in server.output()


@pytest.fixture
def shared_bus(configure, redis_url):
    """A bus of the test's own that a server can share; the arguments for that."""
    settings = {"BACKEND": "flosse_bus.backends.redis.RedisBackend", "LOCATION": redis_url}
    configure(**settings, KEY_PREFIX="wsgi")
    bus.backend.flush()
    return {**settings, "KEY_PREFIX": "wsgi"}


def stalled(clients, port):
    """Begin a stream whose client reads nothing more, and let the server find its buffers full."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    [stream] = clients.begin("load.big", socks=[sock])
    clients.stall(stream)
    for number in range(8):
        bus.publish("load.big", [number, "x" * 900_000])
    return stream


@pytest.mark.measured
@pytest.mark.parametrize("kind", ["gthread", "gevent"])
def test_a_client_that_does_not_read_is_given_up(serve, http, shared_bus, kind):
    server = serve(kind, bus={**shared_bus, "SEND_TIMEOUT": 1})
    with Streams(server.port) as clients:
        [reading] = clients.begin("load.big")
        stalled(clients, server.port)
        wait_until(lambda: "(send timeout)" in server.output(), "the client to be given up")
        wait_until(lambda: streams(http, server.url) == 1, "its place to be free")
        bus.publish("load.big", [8])
        numbers = list(range(9))
        wait_until(lambda: [data[0] for data in reading.data] == numbers, "the other's events")
        assert reading.end is None
        # Nothing else goes on: gunicorn's worker locks itself out if it takes in a request now.
        assert server.stop(signal.SIGINT) < 10
        wait_until(lambda: reading.end, "the other's end")
        assert reading.end == "clean"
    assert "Traceback" not in server.output()


def test_no_client_holds_a_server_that_stops(serve, shared_bus):
    env = gunicorn("--keep-alive=20", "--graceful-timeout=20")
    server = serve("gevent", bus=shared_bus, env=env)
    with Streams(server.port) as clients:
        stalled(clients, server.port)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as kept:
            kept.sendall(b"GET /events/?topic=orders HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = kept.recv(1024)
            assert server.stop(signal.SIGTERM) < 10
            while data := kept.recv(1024):
                answer += data
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"\r\n0\r\n\r\n")
    assert "Traceback" not in server.output()


def test_streams_do_not_hold_a_worker_that_is_replaced(serve, http, tmp_path):
    server = serve("gthread", env=gunicorn("--max-requests=20", hooks=tmp_path))
    workers = children_of(server.pid)
    with Streams(server.port) as clients:
        clients.begin("orders", count=10)
        for _ in range(10):
            streams(http, server.url)
        wait_until(lambda: all(stream.end for stream in clients.all), "its streams to end")
        assert {stream.end for stream in clients.all} == {"clean"}
        wait_until(lambda: not any(map(lives, workers)), "the worker to end")
        clients.begin("orders")
        http.close()
        server.stop()
    assert "Traceback" not in server.output()


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import asyncio, logging, django, gevent
from flosse_bus import bus
from flosse_bus.threads import in_thread

django.setup()
seen, logged, done = set(), [], False

class Waits(logging.Handler):
    def emit(self, record):
        gevent.sleep(0.05)
        logged.append(record.getMessage())

def look():
    while not done:
        seen.add(asyncio._get_running_loop())
        gevent.sleep(0)

def wait(n):
    gevent.sleep(0.05)
    return n

async def work():
    logging.getLogger("flosse_bus").warning("in the loop")
    return asyncio.get_running_loop(), await asyncio.gather(*(in_thread(wait, n) for n in range(20)))

made = []

async def until_made():
    while not made:
        await asyncio.sleep(0.005)

other = gevent.spawn(asyncio.run, until_made())
while asyncio._get_running_loop() is None:  # such a loop is seen everywhere
    gevent.sleep(0.005)
made.append(bus.hubs.threaded())
other.get()

logging.getLogger("flosse_bus").addHandler(Waits())
looking = gevent.spawn(look)
with bus.subscribe("a") as events:
    bus.publish("a", 1)
    assert next(events).data == 1
    thread = bus.hubs.threaded()
    assert thread.run(work()) == (thread.hub.loop, list(range(20)))
bus.close()
done = True
looking.join()
assert seen == {None}, seen
assert logged == ["in the loop"], logged
"""


def test_greenlets_do_not_see_the_loop_of_the_hub():
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    subprocess.run([sys.executable, "-c", GREENLETS], env=env, cwd=ROOT, check=True, timeout=30)


def test_runserver_restarts_with_open_streams(serve, http, tmp_path):
    settings = tmp_path / "touched_settings.py"
    settings.write_text("from testproject.settings import *\n")
    env = {"PYTHONPATH": str(tmp_path), "DJANGO_SETTINGS_MODULE": settings.stem}
    server = serve("runserver", env=env)
    [before] = children_of(server.pid)
    with Streams(server.port) as clients:
        clients.begin("orders", count=10)
        # Again and again: what was changed before the reloader first looks is not a change.
        wait_until(lambda: os.utime(settings) or not lives(before), "the old process to end")
        wait_until(lambda: all(s.end == "clean" for s in clients.all), "its streams to end")
        wait_until(lambda: server.output().count("Quit the server") == 2, "a new one to begin")
        [stream] = clients.begin("orders")
        http.close()
        [after] = children_of(server.pid)
        assert server.stop(signal.SIGINT) < 10
        wait_until(lambda: stream.end, "its stream to end")
    assert not lives(after)
    assert "Traceback" not in server.output()
