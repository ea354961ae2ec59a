"""health/ of a bus on Redis: it hears only what somebody here follows, and may hang."""

from __future__ import annotations

from flosse_bus import bus
from tests.brokers import RedisServer
from tests.processes import wait_until

REDIS = "flosse_bus.backends.redis.RedisBackend"


def state(client, status=200):
    response = client.get("/events/health/")
    assert response.status_code == status
    return response.json()["buses"]["default"]


def test_events_of_topics_that_nobody_follows_are_no_lag(client, configure, redis_url, monkeypatch):
    configure(BACKEND=REDIS, LOCATION=redis_url, KEY_PREFIX="health")
    monkeypatch.setattr("flosse_bus.health.CATCH_UP", 20)
    with bus.subscribe("a") as events:
        for number in range(3):
            for _ in range(50):
                bus.publish("elsewhere", number, using=None)
            assert state(client)["lag"] == 0
            bus.publish("a", number, using=None)
            assert next(events).data == number
            assert state(client)["lag"] == 0


def test_a_listener_that_hears_nothing_is_behind(client, configure, redis_url, monkeypatch):
    """The others' connections are well: only this shows it, until the listener notices."""
    configure(BACKEND=REDIS, LOCATION=redis_url, KEY_PREFIX="health")
    monkeypatch.setattr("flosse_bus.health.CATCH_UP", 0.05)
    with bus.subscribe("a"):
        hub = bus.hubs.threaded().hub
        listener = hub.feed._listener

        async def nothing():
            listener._connection._reader._transport.pause_reading()

        bus.hubs.threaded().run(nothing())
        for number in range(3):
            bus.publish("a", number, using=None)
        assert state(client)["lag"] == 3


def test_a_redis_that_hangs(client, configure, tmp_path):
    with RedisServer(tmp_path) as server:
        configure(BACKEND=REDIS, LOCATION=f"{server.url}?socket_timeout=20")
        with bus.subscribe("a"):
            assert state(client)["status"] == "ok"
            server.pause()
            try:
                told = state(client, 503)
                # Nobody waits for the connection's own patience.
                assert not bus.pulse.ask().done()
            finally:
                server.resume()
            assert (told["status"], told["lag"]) == ("down", None)
            wait_until(lambda: client.get("/events/health/").status_code == 200, "an answer")
