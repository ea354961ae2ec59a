"""The SQL functions and tables, as psql, triggers and migrations meet them."""

from __future__ import annotations

import io

import pytest
from django.core.management import call_command
from django.db import connections, transaction
from django.db.utils import DatabaseError, DataError
from django.test import override_settings

from flosse_bus import buses
from flosse_bus.exceptions import BackendUnavailable
from flosse_bus.test import item
from tests.postgres import database


def events(backend, *names):
    return [r.to_event() for h in backend.read(names).topics.values() for r in h.records]


@pytest.mark.parametrize(
    ("data", "published"),
    [
        ('{"id": 1, "ü": [null]}', {"id": 1, "ü": [None]}),
        ('"raw \\u00fc\\n{}"', "raw ü\n{}"),
        ("null", None),
        (None, None),
        ("3.5", 3.5),
    ],
)
def test_publish_from_sql(pg, data, published):
    with database.backend(pg) as backend:
        database.sql(
            pg, "SELECT flosse_bus_publish('a.b', %s, 'ev', %s)", data, backend.config.key_prefix
        )
        [event] = events(backend, "a.b")
        assert (event.data, event.event) == (published, "ev")
        assert isinstance(published, str) is backend.read(["a.b"]).topics["a.b"].records[0].text


def test_the_default_bus_is_that_of_the_default_key_prefix(own):
    with database.backend(own, key_prefix="flosse") as backend:
        database.sql(own, """SELECT flosse_bus_publish('orders', '{"id": 1}')""")
        [event] = events(backend, "orders")
        assert (event.data, event.event) == ({"id": 1}, None)


@pytest.mark.parametrize(
    ("topic", "event", "bus", "complaint"),
    [
        ("a b", None, "x", "'a b' is not a topic"),
        ("a.*", None, "x", "is not a topic"),
        ("", None, "x", "is not a topic"),
        (None, None, "x", "NULL is not a topic"),
        ("a" * 256, None, "x", "is not a topic"),
        ("a\n", None, "x", "is not a topic"),
        ("ä", None, "x", "is not a topic"),
        ("a", "", "x", "cannot name an event"),
        ("a", "e\n", "x", "cannot name an event"),
        ("a", "stream-reset", "x", "cannot name an event"),
        ("a", "stream-x", "x", "cannot name an event"),
        ("a", "open", "x", "cannot name an event"),
        ("a", "error", "x", "cannot name an event"),
        ("a", "e" * 256, "x", "cannot name an event"),
        ("a", None, "b b", "KEY_PREFIX"),
    ],
)
def test_what_cannot_be_published_is_refused_there(pg, topic, event, bus, complaint):
    with pytest.raises(DataError, match=complaint):
        database.sql(pg, "SELECT flosse_bus_publish(%s, '1', %s, %s)", topic, event, bus)


def test_a_trigger_publishes_whatever_the_search_path(own):
    with database.backend(own) as backend:
        for statement in (
            "CREATE SCHEMA elsewhere",
            "CREATE TABLE elsewhere.orders (id int)",
            f"""
            CREATE FUNCTION elsewhere.told() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM public.flosse_bus_publish(
                    'orders.' || new.id, to_jsonb(new), 'created', '{backend.config.key_prefix}'
                );
                RETURN NULL;
            END $$
            """,
            "CREATE TRIGGER told AFTER INSERT ON elsewhere.orders FOR EACH ROW "
            "EXECUTE FUNCTION elsewhere.told()",
            "SET search_path = elsewhere",
            "INSERT INTO orders VALUES (7)",
        ):
            database.sql(own, statement)
        [event] = events(backend, "orders.*")
        assert (event.topic, event.data, event.event) == ("orders.7", {"id": 7}, "created")


def test_the_tables_may_be_in_another_schema(postgres_database, django_db_blocker):
    with django_db_blocker.unblock(), database.alias(postgres_database, "plain") as plain:
        database.sql(plain, 'CREATE SCHEMA "my bus"')
        options = {"options": '-c search_path="my\\ bus"'}
        with database.alias(postgres_database, OPTIONS=options) as using:
            database.migrate(using)
        with database.backend(plain) as backend, pytest.raises(BackendUnavailable, match="migrate"):
            backend.tail()
        with database.backend(plain, {"schema": "my bus"}) as backend:
            backend.publish(item("a", 1))
            with transaction.atomic(using=plain):
                backend.enlist([item("a", 2)], plain)
            assert [event.data for event in events(backend, "a")] == [1, 2]


def test_positions_are_given_in_transactions_of_their_own(pg):
    append = (
        "SELECT flosse_bus_append('x', 'a', NULL, '1', false, 10, NULL, NULL, "
        "'[[null, 10, null, null]]', 60, true)"
    )
    for before in ("BEGIN ISOLATION LEVEL SERIALIZABLE", "BEGIN; CREATE TEMP TABLE t (a int)"):
        database.sql(pg, before)
        with pytest.raises(DatabaseError, match="positions are given"):
            database.sql(pg, append)
        database.sql(pg, "ROLLBACK")


@pytest.mark.parametrize("table", ["flosse_bus_event", "flosse_bus_topic"])
def test_truncating_begins_a_new_epoch(own, table):
    with database.backend(own) as backend:
        before = backend.publish(item("a", 1))
        database.sql(own, f"TRUNCATE {table}")
        snapshot = backend.read(["a"])
        assert snapshot.tail.epoch != before.epoch
        assert (snapshot.tail.position, dict(snapshot.topics)) == (0, {})
        assert not snapshot.holds(before.cursor)
        assert backend.publish(item("a", 2)).position == 1


def test_the_migration_goes_forwards_and_backwards(empty):
    objects = """
        SELECT (SELECT count(*) FROM pg_class WHERE relname LIKE 'flosse_bus%')
             + (SELECT count(*) FROM pg_proc WHERE proname LIKE 'flosse_bus%')
    """
    with database.backend(empty) as backend:
        for _ in range(2):
            with pytest.raises(BackendUnavailable, match=r"flosse_bus\.contrib\.postgres.*migrate"):
                backend.publish(item("a"))
            database.migrate(empty)
            assert backend.publish(item("a")).position == 1
            database.migrate(empty, None)
            assert database.sql(empty, objects) == [(0,)]


def test_the_migration_can_be_shown_and_does_nothing_on_other_databases(empty):
    with override_settings(INSTALLED_APPS=database.APPS):
        shown = io.StringIO()
        call_command(
            "sqlmigrate", "flosse_bus_postgres", "0001", database=empty, stdout=shown, verbosity=0
        )
        with connections[empty].cursor() as cursor:
            cursor.execute(shown.getvalue())
        shown = io.StringIO()
        call_command("sqlmigrate", "flosse_bus_postgres", "0001", stdout=shown, no_color=True)
        assert "CREATE" not in shown.getvalue()
    with database.backend(empty) as backend:
        assert backend.publish(item("a")).position == 1


def test_migrate_applies_the_option_logged(empty, settings):
    persistence = """
        SELECT DISTINCT relpersistence FROM pg_class
        WHERE relname IN ('flosse_bus_log', 'flosse_bus_topic', 'flosse_bus_event')
    """
    settings.INSTALLED_APPS = database.APPS
    before = None
    for logged in (False, True, True, False):
        settings.FLOSSE_BUS = {
            "default": {
                "BACKEND": "flosse_bus.backends.postgres.PostgresBackend",
                "OPTIONS": {"using": empty, "logged": logged},
            }
        }
        call_command("migrate", "flosse_bus_postgres", database=empty, verbosity=0)
        assert database.sql(empty, persistence) == [("p" if logged else "u",)]
        run = "SELECT relpersistence FROM pg_class WHERE relname = 'flosse_bus_run'"
        assert database.sql(empty, run) == [("u",)]
        backend = buses["default"].backend
        if before is not None:  # nothing is lost by it
            assert backend.read(["a"]).topics["a"].records[-1] == before
        before = backend.publish(item("a"))
