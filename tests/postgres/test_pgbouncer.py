"""PgBouncer between Django and the server, in the mode that keeps no session."""

from __future__ import annotations

import threading

import pytest
from django.db import transaction

from flosse_bus.test import item
from tests.brokers import PgBouncer, pgbouncer_binary
from tests.conftest import missing
from tests.postgres import database


@pytest.fixture
def pooled(postgres_server, tables_uri, tmp_path, django_db_blocker):
    """The alias of the shared database, through PgBouncer."""
    if pgbouncer_binary() is None:
        missing("no pgbouncer on this machine")
    with django_db_blocker.unblock(), PgBouncer(tmp_path, postgres_server) as bouncer:
        uri = bouncer.uri.replace("/postgres", "/bus_shared")
        with database.alias(uri, DISABLE_SERVER_SIDE_CURSORS=True) as using:
            yield using


@pytest.mark.parametrize("direct", [True, False])
def test_events_come_through(pooled, tables_uri, run, direct):
    """Without a way around it, notifications are lost, and the slow poll finds the events."""

    async def main(backend):
        listener = backend.listen()
        await listener.watch(["a"])
        sent = [await backend.apublish(item("a", n)) for n in range(20)]
        got = []
        async for heard in listener:
            got += heard if isinstance(heard, list) else []
            if len(got) == 20:
                break
        assert got == sent
        await listener.aclose()

    with database.backend(pooled, {"listen_dsn": tables_uri} if direct else {}) as backend:
        run(main(backend))


def test_many_publish_through_it(pooled, tables_uri):
    with database.backend(pooled, {"listen_dsn": tables_uri}) as backend:
        threads = [
            threading.Thread(target=lambda: [backend.publish(item("a", n)) for n in range(50)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        with transaction.atomic(using=pooled):
            backend.enlist([item("b")], pooled)
        for thread in threads:
            thread.join()
        snapshot = backend.read(["**"])
        assert snapshot.tail.position == 401
        assert len(snapshot.topics["a"].records) == 400
        assert len(snapshot.topics["b"].records) == 1
