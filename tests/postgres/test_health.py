"""health/ of a bus on PostgreSQL, which may hang, and reads events only when it is told of some."""

from __future__ import annotations

from functools import partial

from tests.brokers import PostgresServer
from tests.health import assert_nobody_waits_while_it_hangs, assert_what_nobody_follows_is_no_lag
from tests.postgres import database

BACKEND = "flosse_bus.backends.postgres.PostgresBackend"


def test_events_of_topics_that_nobody_follows_are_no_lag(client, configure, pg, monkeypatch):
    configure(BACKEND=BACKEND, OPTIONS={"using": pg}, KEY_PREFIX="health")
    assert_what_nobody_follows_is_no_lag(client, monkeypatch)


def test_a_postgresql_that_hangs(
    client, configure, tmp_path, postgres_server, django_db_blocker, monkeypatch
):
    for module in ("link", "pool", "listener"):
        monkeypatch.setattr(f"flosse_bus.backends.postgres.{module}.PATIENCE", 20.0)
    with (
        django_db_blocker.unblock(),
        PostgresServer(tmp_path, bin=postgres_server.bin) as server,
        database.tables(server, "bus") as using,
    ):
        configure(BACKEND=BACKEND, OPTIONS={"using": using}, KEY_PREFIX="health")
        hasty = partial(monkeypatch.setattr, "flosse_bus.health.PATIENCE", 0.3)
        assert_nobody_waits_while_it_hangs(client, server, before=hasty)
