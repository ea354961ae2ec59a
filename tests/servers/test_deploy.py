"""The servers of docs/deploy/, run from the very files: see test_proxies.py for what is in front."""

from __future__ import annotations

import shlex
import signal
import socket

import pytest
import yaml

from flosse_bus import bus
from flosse_bus.conf import load
from tests.processes import ASGI, WSGI, children_of, free_port, lives, wait_until
from tests.proxies import DEPLOY, HOST, UPSTREAM, changed
from tests.servers.test_servers import place
from tests.streams_client import Streams

pytestmark = pytest.mark.server

#: Be as a service that systemd starts for a socket: sd_listen_fds(3).
AS_SERVICE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[2:]])
"""


@pytest.fixture
def written(tmp_path):
    """Write a file of the documentation with some changes. Return its path."""

    def written(name, **changes):
        path = tmp_path / name
        path.write_text(changed((DEPLOY / name).read_text(), changes))
        return path

    return written


def test_max_streams_below_the_threads_leaves_some_for_pages(serve, http, written):
    port = free_port()
    changes = {UPSTREAM: f"{HOST}:{port}", "threads = 200": "threads = 8", "workers = 2": ""}
    config = written("gunicorn.conf.py", **changes)
    command = ["-m", "gunicorn", f"--config={config}", WSGI]
    server = serve(command, port=port, bus={"MAX_STREAMS": 6})
    with Streams(port) as clients:
        clients.begin("orders", count=6)
        [refused] = clients.open("orders")
        wait_until(lambda: refused.end, "an answer")
        assert refused.status == 429
        place(http, server.url)
        wait_until(lambda: all(s.events for s in clients.all[:6]), "six to hear")
        http.close()
        assert server.stop() < 10
        assert {stream.end for stream in clients.all} == {"clean"}


@pytest.mark.parametrize(
    ("file", "app", "command", "ready"),
    [
        (
            "uwsgi.ini",
            WSGI,
            ["-c", "import pyuwsgi; pyuwsgi.run()", "--ini={file}"],
            "WSGI app 0",
        ),
        ("hypercorn.toml", ASGI, ["-m", "hypercorn", "--config={file}", ASGI], "Running on"),
    ],
)
def test_streams_reach_every_worker_and_end_when_the_server_stops(
    serve, shared_bus, written, file, app, command, ready
):
    port = free_port()
    changes = {UPSTREAM: f"{HOST}:{port}"}
    if app is WSGI:
        changes["project.wsgi:application"] = app
    path = written(file, **changes)
    server = serve([part.format(file=path) for part in command], port=port, bus=shared_bus)
    server.wait_for(lambda: server.output().count(ready) == 2, "both workers")
    with Streams(port) as clients:
        clients.begin("load.x", count=30)
        bus.publish("load.x", 1)
        wait_until(lambda: all(s.data == [1] for s in clients.all), "thirty to hear")
        assert server.stop() < 10
        wait_until(lambda: all(s.end for s in clients.all), "the streams to end")
    assert "Traceback" not in server.output()


def test_nobody_is_refused_while_a_service_behind_a_socket_restarts(serve, shared_bus):
    [line] = [
        line.removeprefix("ExecStart=/srv/project/.venv/bin/")
        for line in (DEPLOY / "project.service").read_text().splitlines()
        if line.startswith("ExecStart=")
    ]
    words = shlex.split(changed(line, {"project.asgi:application": ASGI}))
    with socket.create_server((HOST, 0), backlog=4096) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]

        def start():
            command = ["-c", AS_SERVICE, str(fd), *words]
            server = serve(command, port=port, bus=shared_bus, pass_fds=[fd])
            server.wait_for(lambda: server.output().count("startup complete") == 2, "its workers")
            return server

        server = start()
        with Streams(port) as clients:
            before = clients.begin("load.x", count=30)
            bus.publish("load.x", 1)
            wait_until(lambda: all(s.data == [1] for s in before), "the first event")
            assert server.stop() < 10
            wait_until(lambda: all(s.end for s in before), "the streams to end")
            bus.publish("load.x", 2)
            waiting = clients.open("load.x", count=30, after=[s.last_id for s in before])
            server.log.unlink()
            server = start()
            bus.publish("load.x", 3)
            wait_until(lambda: all(s.data == [2, 3] for s in waiting), "all that was missed")

            workers = children_of(server.pid)
            server.process.send_signal(signal.SIGHUP)  # systemctl reload
            # Who comes back to an old worker while it stops is sent away again.
            wait_until(lambda: not any(map(lives, workers)), "the old workers to end")
            wait_until(lambda: all(s.end for s in waiting), "the streams to end")
            bus.publish("load.x", 4)
            back = clients.begin("load.x", count=30, after=[s.last_id for s in waiting])
            wait_until(lambda: all(s.data == [4] for s in back), "what was missed")
            assert {s.end for s in [*before, *waiting]} == {"clean"}


def test_the_procfile_serves(serve):
    kind, _, command = (DEPLOY / "Procfile").read_text().partition(": ")
    assert kind == "web"
    port = free_port()
    words = shlex.split(
        changed(command, {"0.0.0.0:$PORT": f"{HOST}:{port}", "project.asgi:application": ASGI})
    )
    server = serve(["-m", *words], port=port)
    with Streams(port) as clients:
        clients.begin("news", count=10)
        assert server.stop() < 10
        assert {stream.end for stream in clients.all} == {"clean"}


def test_the_ingress_is_more_patient_than_a_heartbeat():
    ingress = yaml.safe_load((DEPLOY / "ingress.yaml").read_text())
    [(name, seconds)] = ingress["metadata"]["annotations"].items()
    assert name == "nginx.ingress.kubernetes.io/proxy-read-timeout"
    assert float(seconds) > load("default").heartbeat
