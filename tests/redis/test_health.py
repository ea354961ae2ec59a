"""health/ of a bus on Redis: it hears only what somebody here follows, and may hang."""

from __future__ import annotations

from flosse_bus import bus
from tests.brokers import RedisServer
from tests.health import (
    assert_nobody_waits_while_it_hangs,
    assert_what_nobody_follows_is_no_lag,
    state,
)

REDIS = "flosse_bus.backends.redis.RedisBackend"


def test_events_of_topics_that_nobody_follows_are_no_lag(client, configure, redis_url, monkeypatch):
    configure(BACKEND=REDIS, LOCATION=redis_url, KEY_PREFIX="health")
    assert_what_nobody_follows_is_no_lag(client, monkeypatch)


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
        assert_nobody_waits_while_it_hangs(client, server)
