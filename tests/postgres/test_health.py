"""health/ of a bus on PostgreSQL, which may hang, and reads events only when it is told of some."""

from __future__ import annotations

from flosse_bus import bus
from tests.brokers import PostgresServer
from tests.postgres import database
from tests.processes import wait_until

BACKEND = "flosse_bus.backends.postgres.PostgresBackend"


def state(client, status=200):
    response = client.get("/events/health/")
    assert response.status_code == status
    return response.json()["buses"]["default"]


def test_events_of_topics_that_nobody_follows_are_no_lag(client, configure, pg, monkeypatch):
    configure(BACKEND=BACKEND, OPTIONS={"using": pg}, KEY_PREFIX="health")
    monkeypatch.setattr("flosse_bus.health.CATCH_UP", 20)
    with bus.subscribe("a") as events:
        for number in range(3):
            for _ in range(50):
                bus.publish("elsewhere", number, using=None)
            assert state(client)["lag"] == 0
            bus.publish("a", number, using=None)
            assert next(events).data == number
            assert state(client)["lag"] == 0


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
        with bus.subscribe("a"):
            assert state(client)["status"] == "ok"
            monkeypatch.setattr("flosse_bus.health.PATIENCE", 0.3)
            server.pause()
            try:
                told = state(client, 503)
                # Nobody waits for the connection's own patience.
                assert not bus.pulse.ask().done()
            finally:
                server.resume()
            assert (told["status"], told["lag"]) == ("down", None)
            wait_until(lambda: client.get("/events/health/").status_code == 200, "an answer")
