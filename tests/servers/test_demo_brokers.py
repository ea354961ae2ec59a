"""What ``make demo BUS=redis`` and ``BUS=postgres`` run: five processes that end together."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.brokers import postgres_bins, redis_binaries
from tests.conftest import missing
from tests.processes import ROOT, Process, children_of, free_port, lives, wait_until

pytestmark = pytest.mark.server

DEMO = [sys.executable, "-m", "testproject.demo", "--traffic=20"]


@pytest.fixture(params=["redis", "postgres"])
def bus(request):
    if not (redis_binaries() if request.param == "redis" else postgres_bins()):
        missing(f"no server for BUS={request.param}")
    return request.param


@pytest.fixture
def data():
    """A folder that also PostgreSQL's user can reach, when the suite runs as root."""
    with tempfile.TemporaryDirectory(prefix="flosse-demo-data-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


class Demo(Process):
    def __init__(self, bus, data):
        self.port = free_port(also=1)
        self.urls = [f"http://127.0.0.1:{port}/" for port in (self.port, self.port + 1)]
        command = [*DEMO, f"--bus={bus}", f"--port={self.port}", f"--data={data}"]
        # Five processes that run nothing else than other tests do: their coverage is not measured.
        env = {"TMPDIR": str(data), "COVERAGE_PROCESS_CONFIG": ""}
        super().__init__(command, log=data / f"demo-{self.port}.log", env=env)
        self.data = data
        try:
            self.wait_for(lambda: "Ctrl-C stops the demo." in self.output(), "the demo")
        except BaseException:
            self.stop()
            raise
        self.children = children_of(self.pid)

    def child(self, word):
        return next(
            pid
            for pid in self.children
            if word in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        )

    def logs(self):
        return "".join(path.read_text() for path in self.data.glob("*.log"))


def test_two_servers_stream_what_a_third_process_publishes(data, follow, http, bus):
    with Demo(bus, data) as demo:
        assert all(url in demo.output() for url in demo.urls)
        [curl] = re.findall(r"curl -N '(\S+)'", demo.output())
        assert curl.startswith(demo.urls[1])
        assert len(demo.children) == 4
        for url in demo.urls:
            assert http.get(url).status_code == 200

        one, _ = follow(f"{demo.urls[0]}events/", "orders")
        other, _ = follow(f"{demo.urls[1]}events/", "orders")
        first = next(other)
        assert json.loads(first.data)["model"] == "shop.order"
        assert any(event.id == first.id for event in one)  # the older stream has it too
        for _ in range(10):
            event, same = next(one), next(other)
            assert (event.event, event.data, event.id) == (same.event, same.data, same.id)

        demo.stop(signal.SIGINT)
        assert demo.process.returncode == 0
        assert not any(map(lives, demo.children))
        assert "Traceback" not in demo.logs()


def test_a_demo_goes_on_where_it_was_stopped(data, follow, http):
    if not redis_binaries():
        missing("no redis-server")
    with Demo("redis", data) as demo:
        events, _ = follow(f"{demo.urls[0]}events/", "orders", last_event_id="earliest")
        last = [next(events) for _ in range(5)][-1]
        demo.stop(signal.SIGTERM)
        assert demo.process.returncode == 0
    with Demo("redis", data) as demo:
        events, _ = follow(f"{demo.urls[1]}events/", "orders", last_event_id=last.id)
        assert next(events).event.startswith("shop.order.")  # and not stream-reset


@pytest.mark.parametrize(
    ("word", "name"), [("redis", "redis"), ("uvicorn", "server 1"), ("traffic", "traffic")]
)
def test_when_one_ends_all_do(data, word, name):
    if not redis_binaries():
        missing("no redis-server")
    with Demo("redis", data) as demo:
        os.kill(demo.child(word), signal.SIGKILL)
        assert demo.process.wait(20) == 1
        assert not any(map(lives, demo.children))
        assert f"error: {name} was killed by signal 9. The end of its log, " in demo.output()
        assert "Traceback" not in demo.output()


def test_a_demo_that_is_killed_leaves_nothing(data):
    if not redis_binaries():
        missing("no redis-server")
    if sys.platform != "linux":
        pytest.skip("only Linux tells a process that its parent has ended")
    with Demo("redis", data) as demo:
        demo.kill()
        wait_until(lambda: not any(map(lives, demo.children)), "its processes to be gone")


def run(*args):
    return subprocess.run(
        [*DEMO, *args], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )


def test_a_second_demo_with_the_same_data_is_refused(data):
    if not redis_binaries():
        missing("no redis-server")
    with Demo("redis", data):
        port = free_port(also=1)
        result = run("--bus=redis", f"--port={port}", f"--data={data}")
    assert result.returncode == 1
    assert result.stderr == f"error: another demo is running with the data in {data}.\n"


def test_a_second_port_that_is_taken_is_one_line(data):
    with socket.socket() as other:
        port = free_port(also=1)
        other.bind(("127.0.0.1", port + 1))
        other.listen()
        result = run("--bus=redis", f"--port={port}", f"--data={data}")
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith(f"error: cannot listen on 127.0.0.1:{port + 1}")
    assert f"make demo BUS=redis PORT={port + 2}" in line


def test_a_second_port_that_cannot_be_is_one_line(data):
    result = run("--bus=redis", "--port=65535", f"--data={data}")
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith("error: cannot listen on 127.0.0.1:65536: ")
    assert line.endswith("make demo BUS=redis PORT=8000")


def test_an_unknown_bus_is_one_line():
    result = run("--bus=nonsense")
    assert result.returncode == 1
    assert result.stderr == "error: BUS=nonsense: expected one of memory, redis, postgres.\n"


def test_make_refuses_an_unknown_bus_before_it_installs_anything():
    if shutil.which("make") is None:
        missing("no make on this machine")
    result = subprocess.run(
        ["make", "-C", ROOT, "demo", "BUS=nonsense"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    [line, from_make] = result.stderr.splitlines()
    assert line == "error: BUS=nonsense: expected one of memory, redis, postgres."
    assert from_make.startswith("make")
