"""The suite's own brokers: they start, fail as they are told to, and are gone in the end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.brokers import (
    Certificates,
    PgBouncer,
    PostgresServer,
    RedisCluster,
    RedisSentinel,
    RedisServer,
    connect,
    has_tls,
    pgbouncer_binary,
    postgres_bins,
    redis_binaries,
)
from tests.conftest import missing
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


def test_redis_lets_in_one_user_only(tmp_path, binary):
    with RedisServer(tmp_path, binary=binary, user=("alice", "secret")) as server:
        assert server.execute("ACL", "WHOAMI") == "alice"
        stranger = connect(f"redis://127.0.0.1:{server.port}")
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_redis_on_a_unix_socket(tmp_path, binary):
    with RedisServer(tmp_path, binary=binary, unix=True) as server:
        assert server.url.startswith("unix://")
        assert server.execute("PING")
        assert not accepts(server.port)


def test_redis_with_tls(tmp_path):
    binary = next((path for _, path in redis_binaries() if has_tls(path)), None)
    if binary is None:
        missing("no redis-server with TLS")
    with RedisServer(tmp_path, binary=binary, tls=Certificates(tmp_path)) as server:
        assert server.url.startswith("rediss://127.0.0.1")
        assert server.execute("PING")
        plain = connect(f"redis://127.0.0.1:{server.port}")
        with plain, pytest.raises(redis.ConnectionError):
            plain.ping()


def test_a_cluster_moves_slots_and_fails_over(tmp_path, binary):
    with RedisCluster(tmp_path, binary, replicas=1) as cluster, cluster.client() as client:
        for number in range(20):
            client.set(f"key{number}", number)
        assert len({cluster.owner_of(f"key{number}").port for number in range(20)}) == 3

        old = cluster.owner_of("key1")
        to = next(node for node in cluster.masters() if node is not old)
        cluster.move_slot("key1", to)
        assert cluster.owner_of("key1") is to
        assert to.execute("GET", "key1") == "1"
        with pytest.raises(redis.exceptions.MovedError):
            old.execute("GET", "key1")

        assert cluster.fail_over("key1") is not to
        assert to.info("replication")["role"] == "slave"
        assert client.get("key1") == "1"
        cluster.kill_owner("key1")
        assert cluster.owner_of("key1") is to
        assert to.execute("GET", "key1") == "1"
    assert not any(lives(node.process.pid) for node in cluster.nodes)


def test_sentinels_fail_over(tmp_path, binary):
    with RedisSentinel(tmp_path, binary) as sentinel:
        first, second = sentinel.master(), sentinel.replica()
        first.execute("SET", "key", "value")
        addresses = redis.Sentinel(sentinel.sentinels)
        assert addresses.discover_master(sentinel.service) == ("127.0.0.1", first.port)
        assert sentinel.fail_over() is second
        assert second.execute("GET", "key") == "value"
        sentinel.demote()
        assert first.info("replication")["role"] == "slave"
        assert sentinel.kill_master() is first
        assert first.execute("GET", "key") == "value"


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


@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
def test_pgbouncer_shares_connections(tmp_path, pool_mode):
    import psycopg

    if not postgres_bins() or pgbouncer_binary() is None:
        missing("no PostgreSQL or no PgBouncer")
    with (
        PostgresServer(tmp_path / "postgres") as server,
        PgBouncer(tmp_path / "pgbouncer", server, pool_mode) as bouncer,
    ):
        servers = set()
        connections = [psycopg.connect(bouncer.uri, autocommit=True) for _ in range(5)]
        for connection in connections:
            servers.add(connection.execute("SELECT pg_backend_pid()").fetchone()[0])
            connection.prepare_threshold = None
        assert len(servers) == (1 if pool_mode == "transaction" else 5)
        bouncer.restart()
        with pytest.raises(psycopg.OperationalError):
            connections[0].execute("SELECT 1")
        for connection in connections:
            connection.close()
        with psycopg.connect(bouncer.uri) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    assert not lives(bouncer.process.pid)


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
