"""How many connections there are, whose they are, and what they are made of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import warnings

import django
import pytest
from django.db import connections, transaction
from django.test import override_settings

from flosse_bus.backends.base import Interruption
from flosse_bus.backends.postgres import PostgresBackend
from flosse_bus.backends.postgres.pool import IDLE, MOST
from flosse_bus.bus import Bus
from flosse_bus.cursor import Cursor
from flosse_bus.exceptions import BackendUnavailable, InvalidBusBackend
from flosse_bus.test import item, wait_until
from tests.postgres import database


def sessions(using, column="substr(application_name, 12)"):
    """Ask the server for the connections that are ours: listeners and publishers."""
    rows = database.sql(
        using,
        f"SELECT {column} FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name LIKE 'flosse_bus %'",
    )
    return [value for (value,) in rows]


def test_threads_loops_and_calls_share_a_few_connections(own):
    async def publish(backend, count):
        await asyncio.gather(*(backend.apublish(item("a", n)) for n in range(count)))

    with database.backend(own) as backend:
        most = []
        threads = [
            threading.Thread(target=lambda: [backend.publish(item("a", n)) for n in range(20)])
            for _ in range(30)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most.append(len(sessions(own)))
        for _ in range(3):
            asyncio.run(publish(backend, 20))
        assert max(most) <= MOST
        wait_until(lambda: len(sessions(own)) <= IDLE)
        assert backend.tail().position == 660
        backend.close()
        wait_until(lambda: not sessions(own))
        assert backend.tail().position == 660


def test_publishing_leaves_no_connection_of_djangos(own):
    with database.backend(own) as backend:
        bus = Bus(backend.config, backend)
        before = database.sql(own, "SELECT count(*) FROM pg_stat_activity")
        thread = threading.Thread(target=lambda: bus.publish("a", 1, using=own))
        thread.start()
        thread.join()
        [(count,)] = before
        assert database.sql(own, "SELECT count(*) FROM pg_stat_activity") == [(count + 1,)]
        assert sessions(own) == ["publisher"]


def test_a_listener_is_one_connection_and_leaves_none(own, run):
    async def main(backend):
        for _ in range(3):
            listener = backend.listen()
            await listener.watch(["a"])
            assert await asyncio.to_thread(sessions_there) == ["listener"]
            await listener.aclose()
            assert [heard async for heard in listener] == []

    def sessions_there():
        try:
            wait_until(lambda: len(sessions(own)) <= 1)
            return sessions(own)
        finally:
            connections[own].close()

    with database.backend(own) as backend:
        run(main(backend))
        wait_until(lambda: not sessions(own))


def test_a_child_leaves_the_connections_of_its_parent_alone(own):
    with database.backend(own) as backend:
        backend.publish(item("a"))
        with warnings.catch_warnings():  # of forks beside threads: servers do it
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:  # in a try, for it must never come back from here
            try:
                position = backend.publish(item("a")).position
                backend.close()
                os._exit(position)
            finally:
                os._exit(99)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
        before = sessions(own, "pid")
        assert backend.publish(item("a")).position == 3
        assert sessions(own, "pid") == before


def test_the_test_runner_can_drop_the_database(postgres_server, django_db_blocker):
    with django_db_blocker.unblock(), database.alias(postgres_server.uri, "runner") as using:
        creation = connections[using].creation
        name = connections[using].settings_dict["NAME"]
        with override_settings(INSTALLED_APPS=database.APPS):
            for _ in range(2):
                creation.create_test_db(verbosity=0, autoclobber=True)
                with database.backend(using) as backend, _following(backend):
                    backend.publish(item("a"))
                    assert sorted(sessions(using)) == ["listener", "publisher"]
                    connections[using].close()
                    creation.destroy_test_db(name, verbosity=0)
        found = "SELECT count(*) FROM pg_database WHERE datname = 'test_postgres'"
        assert postgres_server.execute(found) == [(0,)]


@contextlib.contextmanager
def _following(backend):
    """Listen in a thread, as a hub does, but without trying again."""
    ready, over = threading.Event(), threading.Event()

    async def main():
        listener = backend.listen()
        await listener.watch(["a"])
        ready.set()
        with contextlib.suppress(BackendUnavailable):
            async for _ in listener:
                if over.is_set():
                    break

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        over.set()
        thread.join(10)


@pytest.mark.parametrize("changes", [{"CONN_MAX_AGE": 0}, {"CONN_MAX_AGE": None}, {"pool": True}])
def test_however_django_keeps_its_connections(postgres_database, django_db_blocker, changes):
    if "pool" in changes and django.VERSION < (5, 1):
        pytest.skip("Django's pools came with 5.1")
        changes = {"OPTIONS": changes}
    with django_db_blocker.unblock(), database.alias(postgres_database, **changes) as using:
        database.migrate(using)
        with database.backend(using) as backend:
            backend.publish(item("a", 1))
            with transaction.atomic(using=using):
                backend.enlist([item("a", 2)], using)
            connections[using].close()
            kept = backend.read(["a"]).topics["a"].records
            assert [record.to_event().data for record in kept] == [1, 2]


def test_other_options_of_django_are_heeded(postgres_database, django_db_blocker):
    options = {
        "assume_role": 'the "bus"', "isolation_level": 3, "application_name": "mine",
        "options": "-c default_transaction_isolation=serializable",
    }  # fmt: skip
    with django_db_blocker.unblock():
        with database.alias(postgres_database, "plain") as plain:
            database.sql(plain, 'CREATE ROLE "the ""bus"""')
            database.sql(plain, 'GRANT ALL ON SCHEMA public TO "the ""bus"""')
        try:
            with database.alias(postgres_database, OPTIONS=options) as using:
                connections[using].cursor().execute('SET ROLE "the ""bus"""')  # older than Django's
                database.migrate(using)
                with database.backend(using) as backend:
                    assert [backend.publish(item("a")).position for _ in range(3)] == [1, 2, 3]
                    asyncio.run(_hear(backend))
        finally:
            with database.alias(postgres_database, "plain") as plain:
                database.sql(plain, 'DROP OWNED BY "the ""bus"""')
                database.sql(plain, 'DROP ROLE "the ""bus"""')


async def _hear(backend):
    listener = backend.listen()
    await listener.watch(["a"])
    record = await backend.apublish(item("a"))
    async for heard in listener:
        if heard == [record]:
            break
    await listener.aclose()


def test_the_listener_may_connect_elsewhere(own, postgres_database):
    with database.backend(
        own, {"listen_dsn": f"{postgres_database}?application_name=l"}
    ) as backend:
        asyncio.run(_hear(backend))


def test_many_names_are_heard_too(pg, run):
    """So many that the server is not told them: patterns and topics still pick their events."""

    async def main(backend):
        listener = backend.listen()
        await listener.watch([*(f"t.{n}" for n in range(150)), "p.*", "q.**"])
        names = ["t.7", "other", "p.1", "p.1.2", "q.1.2", "t.151", "t.149"]
        sent = [await backend.apublish(item(name)) for name in names]
        got, iterator = [], aiter(listener)
        async for heard in iterator:
            if isinstance(heard, Cursor):
                if heard == sent[-1].cursor:
                    break
            else:
                got += heard
        assert [record.topic for record in got] == ["t.7", "p.1", "q.1.2", "t.149"]
        await listener.unwatch([f"t.{n}" for n in range(150)])
        await backend.apublish(item("t.1"))
        last = await backend.apublish(item("p.1"))
        async for heard in iterator:
            if isinstance(heard, list):
                assert heard == [last]
                break
        await listener.aclose()

    with database.backend(pg) as backend:
        run(main(backend))


def test_more_than_one_query_can_carry_arrives_in_order(pg, run):
    def commit(backend):
        with transaction.atomic(using=pg):
            for n in range(1200):
                backend.enlist([item("b", n)], pg)
        connections[pg].close()

    async def main(backend):
        listener = backend.listen()
        await listener.watch(["a", "b"])
        for _ in range(12):
            await backend.apublish(item("a", "x" * 300_000))
        await asyncio.to_thread(commit, backend)
        got, batches = [], 0
        async for heard in listener:
            if isinstance(heard, list):
                got += heard
                batches += 1
            if len(got) == 1212:
                break
        assert [record.position for record in got] == list(range(1, 1213))
        assert batches >= 6
        await listener.aclose()

    with database.backend(pg, history_size=2000) as backend:
        run(main(backend))


def test_a_name_that_is_added_during_a_query_misses_nothing(pg, run):
    async def main(backend):
        listener = backend.listen()
        await listener.watch(["a"])
        got = []

        async def collect():
            async for heard in listener:
                got.extend(heard if isinstance(heard, list) else [])

        collecting = asyncio.create_task(collect())
        for n in range(100):
            noise = asyncio.create_task(backend.apublish(item("a")))
            await listener.watch([f"b.{n}"])
            record = await backend.apublish(item(f"b.{n}"))
            await noise
            while len(got) < 2 * (n + 1):
                await asyncio.sleep(0.001)
            assert record in got[-2:]
        await listener.aclose()
        await collecting
        assert [record.position for record in got] == list(range(1, 201))

    with database.backend(pg) as backend:
        run(main(backend))


def test_an_epoch_that_goes_on_is_told_and_followed(pg, run):
    async def main(backend):
        listener = backend.listen()
        await listener.watch(["a"])
        await backend.apublish(item("a", 1))
        await asyncio.to_thread(backend.flush)
        record = await backend.apublish(item("a", 2))
        interruptions = 0
        async for heard in listener:
            interruptions += isinstance(heard, Interruption)
            if isinstance(heard, list) and record in heard:
                break
        assert interruptions == 1
        await listener.aclose()

    with database.backend(pg) as backend:
        run(main(backend))


# Settings


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"using": "nowhere"}, r"\['OPTIONS'\]\['using'\].*DATABASES has no 'nowhere'"),
        ({"logged": "yes"}, r"\['OPTIONS'\]\['logged'\]"),
        ({"schema": ""}, r"\['OPTIONS'\]\['schema'\]"),
        ({"schema": 'a"b'}, r"\['OPTIONS'\]\['schema'\]"),
        ({"listen_dsn": "password=secret nonsense"}, r"\['OPTIONS'\]\['listen_dsn'\]"),
    ],
)
def test_bad_options_are_named(options, complaint):
    with pytest.raises(InvalidBusBackend, match=complaint) as caught:
        PostgresBackend(database.config(), **{"using": "default", **options})
    assert "secret" not in str(caught.value)


def test_a_database_of_another_kind_is_an_error():
    backend = PostgresBackend(database.config())
    [error] = backend.check()
    assert error.id == "flosse_bus.E003"
    assert "'default' is sqlite, not PostgreSQL" in error.msg
    with pytest.raises(InvalidBusBackend, match="not PostgreSQL"):
        backend.publish(item("a"))


def test_checks_want_the_app_and_buses_that_agree(pg, settings):
    def check(**options):
        return PostgresBackend(database.config(), using=pg, **options).check()

    [error] = check()
    assert error.id == "flosse_bus.E003"
    assert "INSTALLED_APPS" in error.hint
    settings.INSTALLED_APPS = database.APPS
    assert check() == []
    entry = {"BACKEND": "flosse_bus.backends.postgres.PostgresBackend"}
    settings.FLOSSE_BUS = {
        "default": {**entry, "OPTIONS": {"using": pg}},
        "other": {**entry, "OPTIONS": {"using": pg, "logged": True}},
    }
    backend = PostgresBackend(database.load("default"), using=pg)
    [error] = backend.check()
    assert "'other'" in error.msg


def test_without_psycopg_the_extra_is_named():
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from flosse_bus.exceptions import InvalidBusBackend\n"
        "try:\n    import flosse_bus.backends.postgres\n"
        "except InvalidBusBackend as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert "pip install 'django-flosse-bus[postgres]'" in done.stdout
