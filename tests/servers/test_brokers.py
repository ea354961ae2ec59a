"""The suite's own brokers: they start, fail as they are told to, and are gone in the end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.brokers import (
    PostgresServer,
    RedisServer,
    postgres_bins,
    redis_binaries,
)
from tests.processes import ROOT, accepts, lives, wait_until

pytestmark = pytest.mark.server


@pytest.fixture(params=redis_binaries()[:1], ids=lambda found: found[0])
def binary(request):
    return request.param[1]


@pytest.fixture(params=postgres_bins()[:1], ids=lambda found: found[0])
def bin(request):
    return request.param[1]


def test_redis_keeps_what_it_is_told_to_keep(tmp_path, binary):
    durable = ["--appendonly", "yes", "--appendfsync", "always"]
    with RedisServer(tmp_path / "a", binary=binary, args=durable) as server:
        server.execute("SET", "key", "value")
        server.restart(kill=True)
        assert server.execute("GET", "key") == "value"
    assert not accepts(server.port)
    with RedisServer(tmp_path / "b", binary=binary) as server:
        server.execute("SET", "key", "value")
        server.restart()
        assert server.execute("GET", "key") is None


def test_a_paused_redis_hangs(tmp_path, binary):
    with RedisServer(tmp_path, binary=binary) as server:
        with server.client(socket_timeout=0.05) as client:
            assert client.ping()
            server.pause()
            with pytest.raises(redis.TimeoutError):
                client.ping()
            server.resume()
        with server.client() as client:
            assert client.ping()
        server.pause()
    assert not lives(server.process.pid)


def test_postgres_recovers_from_a_crash(tmp_path, bin):
    import psycopg

    with PostgresServer(tmp_path, bin=bin, settings={"max_connections": 12}) as server:
        assert server.execute("SHOW max_connections") == [("12",)]
        server.execute("CREATE TABLE kept (number int)")
        server.execute("INSERT INTO kept VALUES (%s)", 1)
        open_connection = server.connect()
        server.crash()
        open_connection.close()
        server.start()
        assert server.execute("SELECT * FROM kept") == [(1,)]
        assert "not properly shut down" in server.process.output()
        server.pause()
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(server.uri, connect_timeout=2)
        server.resume()
        for mode in ("fast", "smart", "immediate"):
            server.restart(mode)
        assert server.execute("SELECT * FROM kept") == [(1,)]
    assert not lives(server.process.pid)
    assert not accepts(server.port)


ABANDON = """
import os, sys
from tests.brokers import PostgresServer, RedisServer, postgres_bins, redis_binaries
from tests.brokers_postgres import _make_directory
servers = []
if redis_binaries():
    servers.append(RedisServer(sys.argv[1] + "/redis").start())
    servers[0].pause()
if postgres_bins():
    servers.append(PostgresServer(sys.argv[1] + "/postgres").start())
print(*(server.process.pid for server in servers))
print(_make_directory(), flush=True)
sys.stdin.read()
"""


def test_what_a_killed_suite_leaves_is_ended_and_removed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", ABANDON, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    ) as suite:  # fmt: skip
        pids = [int(pid) for pid in suite.stdout.readline().split()]
        directory = Path(suite.stdout.readline().strip())
        assert all(map(lives, pids))
        assert directory.exists()
        suite.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(map(lives, pids)), "the servers to be gone")
    wait_until(lambda: not directory.exists(), "what they wrote to be gone")
