"""Servers that restart, crash, hang, are restored: the epoch says whether anything is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import time

import pytest

from flosse_bus.exceptions import BackendUnavailable
from flosse_bus.test import item
from tests.brokers import PostgresServer
from tests.postgres import database


@pytest.fixture
def server(tmp_path, postgres_server, django_db_blocker):
    """A server of the test's own, to be stopped."""
    with django_db_blocker.unblock(), PostgresServer(tmp_path, bin=postgres_server.bin) as server:
        yield server


def publish(backend, *args):
    """Publish as one does just after the connections were cut: once more."""
    try:
        return backend.publish(item(*args))
    except BackendUnavailable:
        return backend.publish(item(*args))


def test_a_clean_restart_loses_nothing(server):
    with database.tables(server, "bus") as using, database.backend(using) as backend:
        sent = [backend.publish(item("a", n)) for n in range(3)]
        server.restart()
        snapshot = backend.read(["a"])
        assert snapshot.tail == sent[-1].cursor
        assert list(snapshot.topics["a"].records) == sent
        assert backend.publish(item("a")).position == 4


def test_a_crash_empties_the_log_unless_it_is_logged(server):
    with database.tables(server, "bus") as using, database.backend(using) as backend:
        last = [backend.publish(item("a", n)) for n in range(3)][-1]
        server.crash()
        server.start()
        snapshot = backend.read(["a"])
        assert snapshot.tail.epoch != last.epoch
        assert (snapshot.tail.position, dict(snapshot.ancestors)) == (0, {})
        assert not snapshot.holds(last.cursor)
        assert backend.publish(item("a")).position == 1


def test_a_logged_log_goes_on_in_a_new_epoch_after_a_crash(server):
    with (
        database.tables(server, "bus") as using,
        database.backend(using, {"logged": True}) as backend,
    ):
        for table in ("log", "topic", "event"):
            database.sql(using, f"ALTER TABLE flosse_bus_{table} SET LOGGED")
        sent, epochs = [], []
        for crash in range(3):
            sent += [backend.publish(item("a", [crash, n])) for n in range(5)]
            epochs.append(sent[-1].epoch)
            server.crash()
            server.start()
        snapshot = backend.read(["a"])
        assert snapshot.tail.position == 15
        assert snapshot.tail.epoch not in epochs
        assert dict(snapshot.ancestors) == dict(zip(epochs, (5, 10, 15), strict=True))
        assert list(snapshot.topics["a"].records) == sent
        assert all(snapshot.holds(record.cursor) for record in sent)
        again = backend.publish(item("a"))
        assert (again.position, again.previous) == (16, 15)
        assert again.epoch == snapshot.tail.epoch


def test_an_old_dump_that_is_loaded_again_is_not_the_log_that_went_on(server):
    with database.tables(server, "bus") as using, database.backend(using) as backend:
        backend.publish(item("a", 1))
        programs, user = server.bin, ["-h", "127.0.0.1", "-p", str(server.port), "-U", "flosse"]
        dump = subprocess.run(
            [programs / "pg_dump", *user, "bus"], check=True, capture_output=True, timeout=60
        ).stdout
        lost = backend.publish(item("a", 2))
        backend.close()
        server.execute("DROP DATABASE bus WITH (FORCE)")
        server.execute("CREATE DATABASE bus")
        subprocess.run(
            [programs / "psql", *user, "-q", "-v", "ON_ERROR_STOP=1", "bus"],
            input=dump, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        for n in range(3):
            publish(backend, "a", n)
        snapshot = backend.read(["a"])
        assert snapshot.tail.epoch != lost.epoch
        assert not snapshot.holds(lost.cursor)


def test_a_server_that_is_not_there_is_unavailable_at_once(server):
    with database.tables(server, "bus") as using, database.backend(using) as backend:
        backend.publish(item("a"))
        server.stop()
        start = time.monotonic()
        for attempt in (lambda: backend.publish(item("a")), backend.tail, backend.flush):
            with pytest.raises(BackendUnavailable, match="bus 'default'"):
                attempt()
        assert time.monotonic() - start < 30
        server.start()
        assert publish(backend, "a").position == 2


def test_a_server_that_hangs_is_unavailable_in_bounded_time(server, run, monkeypatch):
    for module in ("link", "pool", "listener"):
        monkeypatch.setattr(f"flosse_bus.backends.postgres.{module}.PATIENCE", 1.0)

    async def main(backend):
        listener = backend.listen()
        await listener.watch(["a"])
        server.pause()
        start = time.monotonic()
        await listener.probe()
        with pytest.raises(BackendUnavailable, match="not answered"):
            async for _ in listener:
                pass
        with pytest.raises(BackendUnavailable):
            await backend.listen().watch(["a"])
        assert time.monotonic() - start < 30

    with database.tables(server, "bus") as using, database.backend(using) as backend:
        backend.publish(item("a"))
        try:
            run(main(backend))
            for _ in range(2):  # by a connection that there is, and by a new one
                start = time.monotonic()
                with pytest.raises(BackendUnavailable):
                    backend.publish(item("a"))
                assert time.monotonic() - start < 30
        finally:
            server.resume()
        assert publish(backend, "b").previous == 0


def is_open(number):
    """Return whether another thread has been given this file descriptor."""
    with contextlib.suppress(OSError):
        os.fstat(number)
        return True
    return False


def test_a_lost_listener_leaves_its_socket_to_the_next(pg, postgres_server, run):
    """Its number, which the event loop must have forgotten: or it would not listen to who has it."""

    async def main(backend):
        listener = backend.listen()
        await listener.watch(["a"])
        number = listener._connection.pgconn.socket
        postgres_server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'flosse_bus listener'",
        )
        with pytest.raises(BackendUnavailable):
            async for _ in listener:
                pass
        mine, theirs = socket.socketpair()
        if mine.fileno() != number and not is_open(number):  # it mostly is that number
            os.dup2(mine.fileno(), number)
            mine.close()
            mine = socket.socket(fileno=number)
        with theirs:
            reader, writer = await asyncio.open_connection(sock=mine)
            theirs.send(b"hello\n")
            assert await reader.readline() == b"hello\n"
            writer.close()
            await writer.wait_closed()
        await listener.aclose()

    with database.backend(pg) as backend:
        run(main(backend))


def dated(using, backend, position, seconds):
    """Date an event as it would be if the clock had been wrong by so much."""
    for field in ("published_at", "expires_at"):
        database.sql(
            using,
            f"UPDATE flosse_bus_event SET {field} = {field} + make_interval(secs => %s)"
            " WHERE bus = %s AND position = %s",
            seconds, backend.config.key_prefix, position,
        )  # fmt: skip


def test_a_clock_that_is_set_back_leaves_no_hole(pg):
    with database.backend(pg, history_ttl=60) as backend:
        sent = [backend.publish(item("a", n)) for n in range(4)]
        dated(pg, backend, 2, -100)
        history = backend.read(["a"]).topics["a"]
        assert [r.position for r in history.records] == [3, 4]
        assert history.evicted == 2
        dated(pg, backend, 4, -100)
        history = backend.read(["a"]).topics["a"]
        assert (history.records, history.evicted) == ((), 4)
        assert sent[3].position == 4


@pytest.mark.parametrize("many", [False, True])
def test_a_clock_that_was_ahead_does_not_stop_expiry(pg, many):
    with database.backend(pg, history_ttl=60) as backend:
        backend.publish_many([item("a", n) for n in range(20)])
        for position in range(1, 21):
            dated(pg, backend, position, 10_000)
        database.sql(
            pg, "UPDATE flosse_bus_log SET published_at = published_at + interval '10000 s'"
            " WHERE bus = %s", backend.config.key_prefix,
        )  # fmt: skip
        before = time.time()
        sent = backend.publish_many([item("a")]) if many else [backend.publish(item("a"))]
        assert sent[0].published_at < before + 1000
        dated(pg, backend, 21, -100)  # as if its time were over
        database.sql(
            pg, "UPDATE flosse_bus_log SET expires = now() WHERE bus = %s", backend.config.key_prefix
        )  # fmt: skip
        history = backend.read(["a"]).topics["a"]
        assert (history.records, history.evicted) == ((), 21)
        backend.publish_many([item("b", n) for n in range(32)])
        assert "a" not in backend.read(["a"]).topics
