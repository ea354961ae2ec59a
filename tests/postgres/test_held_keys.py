"""Publishing with an idempotency key that a transaction has which is still open."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import psycopg
import pytest
from django.db import connections, transaction

from flosse_bus.backends.postgres import keys
from flosse_bus.backends.postgres.pool import MOST
from flosse_bus.bus import Bus
from flosse_bus.exceptions import BackendUnavailable
from flosse_bus.test import item, wait_until
from flosse_bus.threads import THREADS
from tests.postgres import database

ENLIST = "SELECT flosse_bus_enlist(%s, '{a}', '{NULL}', ARRAY['1'::bytea], '{f}', %s, 60)"


@contextlib.contextmanager
def held(uri, backend, *names):
    """Publish the data 1 with each key in a transaction, and leave it open."""
    with psycopg.connect(uri) as connection:
        for name in names:
            connection.execute(ENLIST, (backend.config.key_prefix, [name]))
        yield connection


def waiting(using):
    """Return how many sessions wait for a key in the database."""
    [(count,)] = database.sql(
        using, "SELECT count(*) FROM pg_locks WHERE classid = 1179407188 AND NOT granted"
    )
    return count


def data(backend, *names):
    records = [r for h in backend.read(names).topics.values() for r in h.records]
    return [r.to_event().data for r in sorted(records, key=lambda record: record.position)]


# Outside transactions


def test_those_who_wait_for_a_key_hold_up_nobody_else(pg, tables_uri, monkeypatch):
    monkeypatch.setattr(keys, "PATIENCE", 60.0)
    got, asked, count = [], set(), 2 * MOST

    def wait():
        try:
            got.append(backend.publish(item("b", 2, key="k")))
        except BackendUnavailable as error:
            got.append(error)

    def run(query, arguments):
        asked.add(threading.get_ident())
        return ask(query, arguments)

    with database.backend(pg) as backend, held(tables_uri, backend, "k") as connection:
        ask = backend._run
        monkeypatch.setattr(backend, "_run", run)
        threads = [threading.Thread(target=wait) for _ in range(count)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(asked) == count)
        for n in range(100):
            backend.publish(item("c", n))
            backend.publish(item("c", n, key=f"other {n}"))
        assert backend.tail().position == 200
        assert got == []
        connection.commit()
        for thread in threads:
            thread.join(20)
        [first] = backend.read(["a"]).topics["a"].records
        assert got == [first] * count
        assert backend.tail() == first.cursor


def test_nor_do_those_who_wait_in_event_loops(pg, tables_uri, monkeypatch, run):
    monkeypatch.setattr(keys, "PATIENCE", 60.0)

    async def main(backend, connection):
        count = 2 * THREADS
        waiters = [
            asyncio.create_task(backend.apublish(item("b", 2, key="k"))) for _ in range(count)
        ]
        waiters.append(
            asyncio.create_task(backend.apublish_many([item("b", 3), item("b", 4, key="k")]))
        )
        await asyncio.sleep(0)
        for n in range(50):
            await backend.apublish(item("c", n))
        assert not any(waiter.done() for waiter in waiters)
        await asyncio.to_thread(connection.commit)
        *got, [new, old] = await asyncio.gather(*waiters)
        assert {record.cursor for record in got} == {old.cursor}
        assert (old.topic, old.position) == ("a", 51)
        assert new.to_event().data == 3

    with database.backend(pg) as backend, held(tables_uri, backend, "k") as connection:
        run(main(backend, connection))


def test_nobody_waits_for_a_key_for_ever(pg, tables_uri, monkeypatch, run):
    monkeypatch.setattr(keys, "PATIENCE", 0.2)
    with database.backend(pg) as backend:
        bus = Bus(backend.config, backend)
        with held(tables_uri, backend, "order-7-paid") as connection:
            for publish in (
                lambda: bus.publish("a", 2, idempotency_key="order-7-paid"),
                lambda: run(bus.apublish("a", 2, idempotency_key="order-7-paid")),
                lambda: backend.publish_many([item("a", 2), item("a", 2, key="order-7-paid")]),
            ):
                with pytest.raises(BackendUnavailable, match=r"'order-7-paid'.* publish again"):
                    publish()
            assert backend.tail().position == 0
            connection.rollback()
        assert bus.publish("a", 3, idempotency_key="order-7-paid").data == 3
        assert data(backend, "a") == [3]


def test_of_several_keys_the_one_that_is_held_is_named(pg, tables_uri, monkeypatch):
    monkeypatch.setattr(keys, "PATIENCE", 0.05)
    with database.backend(pg) as backend, held(tables_uri, backend, "k7", "k3"):
        drafts = [item("a", n, key=f"k{n}") for n in range(10)]
        with pytest.raises(BackendUnavailable, match="'k[37]'"):
            backend.publish_many(drafts)
        rest = [draft for draft in drafts if draft.key not in ("k3", "k7")]
        assert len(backend.publish_many(rest)) == 8


# Inside transactions


def test_a_transaction_waits_for_another_with_the_same_key(pg, tables_uri):
    with database.backend(pg) as backend:
        bus, shown = Bus(backend.config, backend), []

        def write():
            try:
                with transaction.atomic(using=pg):
                    database.sql(pg, "SET LOCAL lock_timeout = '70s'")
                    bus.publish("b", 2, using=pg, idempotency_key="k")
                    shown.append(database.sql(pg, "SHOW lock_timeout"))
                shown.append(database.sql(pg, "SHOW lock_timeout"))
            finally:
                connections[pg].close()

        with held(tables_uri, backend, "k") as connection:
            thread = threading.Thread(target=write)
            thread.start()
            wait_until(lambda: waiting(pg) == 1)
            assert shown == []
            connection.commit()
        thread.join(10)
        assert data(backend, "*") == [1]
        assert shown == [[("70s",)], [("0",)]]  # its own is as it was


@pytest.mark.parametrize("allowed", ["0", "1h"])
def test_a_transaction_does_not_wait_for_ever(pg, tables_uri, allowed):
    """It is 4 s, and the transaction goes on."""
    with database.backend(pg) as backend, held(tables_uri, backend, "it's"):
        bus = Bus(backend.config, backend)
        with transaction.atomic(using=pg):
            database.sql(pg, f"SET LOCAL lock_timeout = '{allowed}'")
            bus.publish("b", 2, using=pg)
            with pytest.raises(BackendUnavailable, match="idempotency key 'it''s'"):
                bus.publish("b", 3, using=pg, idempotency_key="it's")
            assert database.sql(pg, "SHOW lock_timeout") == [(allowed,)]
            bus.publish("b", 4, using=pg)
        assert data(backend, "*") == [2, 4]


def test_two_that_wait_for_each_other_do_not_wait_for_ever(pg):
    with database.backend(pg) as backend:
        bus, ready, failed = Bus(backend.config, backend), threading.Barrier(2), []

        def write(*names):
            try:
                with transaction.atomic(using=pg):
                    for name in names:
                        bus.publish("a", names, using=pg, idempotency_key=name)
                        if name == names[0]:
                            ready.wait(10)
            except BackendUnavailable as error:
                failed.append(error.__cause__.__cause__.sqlstate)
            finally:
                connections[pg].close()

        threads = [threading.Thread(target=write, args=names) for names in ("xy", "yx")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        # What PostgreSQL notices after deadlock_timeout, 1 s. With a longer one both might fail.
        assert failed == ["40P01"]
        found = data(backend, "a")
        assert len(found) == 2
        assert found[0] == found[1]


def test_a_deadlock_that_nobody_looks_for_ends(pg, tables_uri):
    failed = []

    def enlist(connection, backend, name):
        try:
            connection.execute(ENLIST, (backend.config.key_prefix, [name]))
        except psycopg.OperationalError as error:
            failed.append(error.sqlstate)
            connection.rollback()

    with (
        database.backend(pg) as backend,
        held(tables_uri, backend, "x") as one,
        held(tables_uri, backend, "y") as other,
    ):
        for connection in (one, other):
            connection.execute("SET LOCAL deadlock_timeout = '1h'")
        threads = [
            threading.Thread(target=enlist, args=args)
            for args in ((one, backend, "y"), (other, backend, "x"))
        ]
        for thread in threads:
            thread.start()
        for thread, connection in zip(threads, (one, other), strict=True):
            thread.join(10)
            if thread.is_alive():
                connection.cancel()
                thread.join(10)
    assert 1 <= len(failed) <= 2
    assert set(failed) == {"55P03"}
