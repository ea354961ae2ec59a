"""Events that cannot be written in a transaction of the project's leave its rows alone."""

from __future__ import annotations

import contextlib

import psycopg
import pytest
from django.db import DatabaseError, connections, transaction

from flosse_bus import buses, publish_bulk, publish_changes
from flosse_bus.changes import unpublish_changes
from flosse_bus.exceptions import BackendUnavailable
from tests.lab.models import Place, Tag, Tool
from tests.postgres import database


@pytest.fixture(params=["client", "server"])
def using(request, postgres_database, django_db_blocker, settings):
    """A database with a bus and some models, with arguments bound on either side."""
    options = {"server_side_binding": request.param == "server"}
    with (
        django_db_blocker.unblock(),
        database.alias(postgres_database, "pg", OPTIONS=options) as using,
    ):
        database.migrate(using)
        with connections[using].schema_editor() as editor:
            editor.create_model(Tag)
            editor.create_model(Place)
            editor.create_model(Tool)
        settings.FLOSSE_BUS = {
            "default": {
                "BACKEND": "flosse_bus.backends.postgres.PostgresBackend",
                "OPTIONS": {"using": using},
            }
        }
        publish_changes(Tag, topics=["tags"], fields=["name"])
        try:
            yield using
        finally:
            unpublish_changes(Tag)
            buses.close_all()
            # What a test has left held up would keep the database from being dropped.
            connections[using].close()


@contextlib.contextmanager
def no_migration(using, uri):
    database.migrate(using, None)
    yield
    database.migrate(using)


@contextlib.contextmanager
def no_grant(using, uri):
    database.sql(using, "CREATE ROLE bus_stranger")
    database.sql(using, "GRANT ALL ON lab_tag, lab_place TO bus_stranger")
    database.sql(using, "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO bus_stranger")
    database.sql(using, "SET ROLE bus_stranger")
    try:
        yield
    finally:
        database.sql(using, "RESET ROLE")
        database.sql(using, "DROP OWNED BY bus_stranger")
        database.sql(using, "DROP ROLE bus_stranger")


@contextlib.contextmanager
def rewritten(using, uri):
    """As ``VACUUM FULL`` does for as long as it takes."""
    with psycopg.connect(uri) as other:
        other.execute("LOCK TABLE flosse_bus_event")
        yield


@contextlib.contextmanager
def impatient(using, uri):
    database.sql(using, "SET statement_timeout = '300ms'")
    with rewritten(using, uri):
        yield
    database.sql(using, "RESET statement_timeout")


@contextlib.contextmanager
def full(using, uri):
    database.sql(
        using,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$",
    )
    database.sql(
        using,
        "CREATE TRIGGER refuse BEFORE INSERT ON flosse_bus_event "
        "FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    yield
    database.sql(using, "DROP FUNCTION refuse CASCADE")


FAULTS = [no_migration, no_grant, impatient, full]


@pytest.mark.parametrize("fault", [*FAULTS, rewritten])
def test_a_row_is_saved_though_its_event_cannot_be_written(using, postgres_database, fault, caplog):
    with fault(using, postgres_database):
        with transaction.atomic(using=using):
            tag = Tag.objects.using(using).create(name="kept")
            Place.objects.using(using).create(name="kept too")
        saved = [Tag.objects.using(using).get().pk, Place.objects.using(using).get().name]
    assert saved == [tag.pk, "kept too"]
    assert "lab.tag.created was not published" in caplog.text
    Tag.objects.using(using).create(name="again")
    assert [event.data["fields"] for event in buses["default"].history("tags")] == [
        {"name": "again"}
    ]


@pytest.mark.parametrize("fault", FAULTS)
def test_who_catches_that_an_event_cannot_be_written_keeps_the_transaction(
    using, postgres_database, fault
):
    bus = buses["default"]
    with fault(using, postgres_database):
        with transaction.atomic(using=using):
            Place.objects.using(using).create(name="before")
            with pytest.raises(BackendUnavailable):
                bus.publish("a", 1, using=using)
            Place.objects.using(using).create(name="after")
        assert Place.objects.using(using).count() == 2


def test_a_deletion_and_a_bulk_survive_too(using, postgres_database, caplog):
    """Django deletes in a transaction of its own, and sends the signals inside."""
    tags = [Tag.objects.using(using).create(name=name) for name in "ab"]
    with full(using, postgres_database):
        tags[0].delete()
        with transaction.atomic(using=using):
            Tag.objects.using(using).update(name="c")
            publish_bulk(Tag.objects.using(using), "updated")
        assert [tag.name for tag in Tag.objects.using(using)] == ["c"]
    assert "lab.tag.deleted was not published" in caplog.text
    assert "lab.tag.updated was not published" in caplog.text


def test_what_is_written_before_and_after_a_failure_is_published(using, postgres_database):
    bus = buses["default"]
    with transaction.atomic(using=using):
        bus.publish("a", 1, using=using)
        with psycopg.connect(postgres_database) as other:
            database.sql(using, "SET LOCAL statement_timeout = '300ms'")
            other.execute("SELECT flosse_bus_claim('flosse', ARRAY['k'])")
            with pytest.raises(BackendUnavailable):
                bus.publish("a", 2, using=using, idempotency_key="k")
        with transaction.atomic(using=using):
            bus.publish("a", 3, using=using)
    assert [event.data for event in bus.history("a")] == [1, 3]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_transaction_that_must_be_tried_again_says_so(using, level):
    """What retries it looks for the database's error, which nobody may take for one of the bus."""
    for statement in (
        "CREATE FUNCTION collide() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '40001'; END $$",
        "CREATE TRIGGER collide BEFORE INSERT ON flosse_bus_event "
        "FOR EACH ROW EXECUTE FUNCTION collide()",
    ):
        database.sql(using, statement)
    for attempt in (
        lambda: Tag.objects.using(using).create(name="x"),
        lambda: buses["default"].publish("a", 1, using=using),
    ):
        with pytest.raises(DatabaseError, match="not now"), transaction.atomic(using=using):
            database.sql(using, f"SET TRANSACTION ISOLATION LEVEL {level}")
            attempt()
    assert not Tag.objects.using(using).exists()


def test_a_transaction_that_is_lost_is_no_failure_of_the_bus(using, postgres_database):
    """Who catches BackendUnavailable may go on. Here there is nothing left to go on with."""
    bus = buses["default"]

    def end_session():
        [(pid,)] = database.sql(using, "SELECT pg_backend_pid()")
        with psycopg.connect(postgres_database) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (pid,))

    def fail_in_silence():
        with contextlib.suppress(DatabaseError):
            database.sql(using, "SELECT 1 / 0")

    for lose in (fail_in_silence, end_session):
        with pytest.raises(DatabaseError), transaction.atomic(using=using):
            lose()
            bus.publish("a", 1, using=using)
        connections[using].close()
    assert bus.history("a") == []
