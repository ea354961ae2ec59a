"""A Redis that is away, hangs, or hangs up."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import warnings

import pytest

from flosse_bus import buses
from flosse_bus.exceptions import BackendUnavailable
from tests.brokers import RedisServer
from tests.processes import free_port, wait_until
from tests.redis.help import bus_at, publish, round_trip, taken


def test_nobody_there_is_an_error_at_once():
    with bus_at(f"redis://127.0.0.1:{free_port()}") as bus:
        for call in (
            lambda: bus.publish("a", 1, using=None), bus.cursor, lambda: bus.history("a"),
            lambda: bus.subscribe("a").__enter__(),
        ):  # fmt: skip
            with pytest.raises(BackendUnavailable, match="bus 'default': Redis"):
                call()


def test_a_redis_that_hangs_is_an_error_after_a_while(tmp_path):
    with RedisServer(tmp_path) as server, bus_at(server.url + "?socket_timeout=0.3") as bus:
        publish(bus, "a", 1)
        server.pause()
        try:
            begin = time.monotonic()
            with pytest.raises(BackendUnavailable, match=r"(?i)time"):
                bus.publish("a", 2, using=None)
            assert time.monotonic() - begin < 10  # and not for ever
        finally:
            server.resume()
        # The connection that was waited on is not used again: its answer would be taken for ours.
        event = publish(bus, "a", 3)
        assert bus.history("a")[-1] == event


def test_streams_stay_open_and_miss_nothing(tmp_path):
    args = ["--appendonly", "yes", "--appendfsync", "always"]
    with (
        RedisServer(tmp_path, args=args) as server,
        bus_at(server.url) as bus,
        bus_at(server.url) as elsewhere,
        bus.subscribe("a", "b.*") as events,
    ):
        publish(elsewhere, "a", 1)
        assert taken(events, 1) == [1]
        thread = bus.hubs.threaded()
        quiet = thread.run(
            thread.hub.open(["a"], after=None, signal=threading.Event(), heartbeat=0.05)
        )
        assert len(quiet.take()) == 1  # the opening mark
        server.kill()
        wait_until(lambda: thread.hub.feed.down, "the hub to notice")
        for _ in range(2):
            wait_until(quiet.take, "a heartbeat")
        with pytest.raises(BackendUnavailable), bus.subscribe("a"):
            pass  # pragma: no cover - because it does not come to this
        server.start()
        sent = [publish(elsewhere, "a", 2), publish(elsewhere, "b.1", 3)]
        assert [next(events), next(events)] == sent
        round_trip(bus)


@pytest.mark.django_db
def test_views_refuse_new_streams_while_it_is_down(tmp_path, configure, client):
    server = RedisServer(tmp_path)
    configure(
        BACKEND="flosse_bus.backends.redis.RedisBackend", LOCATION=server.url,
        PUBLIC_TOPICS=["a"],
    )  # fmt: skip
    with server:
        buses["default"].publish("a", 1, using=None)
        assert client.get("/events/health/").json()["status"] == "ok"
    response = client.get("/events/?topic=a")
    assert (response.status_code, response["Retry-After"]) == (503, "5")
    health = client.get("/events/health/")
    assert (health.status_code, health.json()["buses"]["default"]["status"]) == (503, "down")
    with server:
        assert client.get("/events/health/").status_code == 200
        response = client.get("/events/?topic=a")
        assert response.status_code == 200
        response.close()


def test_a_client_killed_at_any_step_costs_nothing(redis_server, redis_url):
    with bus_at(redis_url) as bus, bus.subscribe("a") as events:
        for n in range(5):
            redis_server.execute("CLIENT", "KILL", "TYPE", "pubsub")
            publish(bus, "a", [n, 1])
            redis_server.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            publish(bus, "a", [n, 2])
            assert taken(events, 2) == [[n, 1], [n, 2]]


def test_one_connection_listens_to_exactly_what_has_streams(redis_server, redis_url, monkeypatch):
    def channels():
        return sorted(redis_server.execute("PUBSUB", "CHANNELS", "*"))

    def listeners():
        clients = redis_server.client().client_list()
        return [c for c in clients if int(c["sub"]) + int(c["psub"])]

    with bus_at(redis_url) as bus:
        hub = bus.hubs.threaded()
        with bus.subscribe("a") as first, bus.subscribe("a", "b"), bus.subscribe("c.*"):
            assert channels() == ["{flosse}:c:a", "{flosse}:c:b"]
            assert redis_server.execute("PUBSUB", "NUMPAT") == 1
            assert len(listeners()) == 1
            publish(bus, "a", 1)
            assert taken(first, 1) == [1]
        hub.run(hub.hub.feed.sweep(0))
        wait_until(lambda: channels() == [], "the channels to be left")
        assert redis_server.execute("PUBSUB", "NUMPAT") == 0
        with bus.subscribe("b") as events:
            assert channels() == ["{flosse}:c:b"]
            publish(bus, "b", 2)
            assert taken(events, 1) == [2]


def test_what_an_event_costs_does_not_grow_with_streams(redis_server, redis_url):
    def commands(streams):
        with bus_at(redis_url) as bus, bus_at(redis_url) as other:
            opened = [bus.subscribe("a") for _ in range(streams)]
            events = [one.__enter__() for one in opened]
            with other.subscribe("a"):
                publish(bus, "a", 0)
                redis_server.execute("CONFIG", "RESETSTAT")
                for n in range(50):
                    publish(bus, "a", n)
                for one in events:
                    assert taken(one, 51) == [0, *range(50)]
                stats = redis_server.info("commandstats")
            for one in opened:
                one.__exit__(None, None, None)
        return stats["cmdstat_publish"]["calls"], stats["cmdstat_xadd"]["calls"], stats

    few, many = commands(1), commands(30)
    assert few[:2] == many[:2] == (50, 50)
    # Beside the publishing scripts there is a look at the tail now and then.
    assert many[2]["cmdstat_evalsha"]["calls"] <= 50 + 25


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_hub_that_cannot_keep_up_reads_the_log(redis_url, monkeypatch, size):
    monkeypatch.setattr("flosse_bus.backends.redis.listener.MAX_INBOX", 5)
    monkeypatch.setattr("flosse_bus.backends.redis.listener.MAX_INBOX_BYTES", 1_000_000)
    with bus_at(redis_url, max_event_size=1 << 22) as bus, bus.subscribe("a") as events:
        hub = bus.hubs.threaded().hub
        hub.loop.call_soon_threadsafe(time.sleep, 0.05)
        for n in range(20 if size == 10 else 3):
            publish(bus, "a", [n, "x" * size])
        got = [next(events).data[0] for _ in range(20 if size == 10 else 3)]
        assert got == sorted(got) == list(range(len(got)))


def test_publishing_from_anywhere_leaves_no_connections_behind(redis_server, redis_url):
    """Threads that come and go, and an event loop for each call."""

    def connections():
        return int(redis_server.info("clients")["connected_clients"])

    async def some(bus):
        await asyncio.gather(*(bus.apublish("a", n, using=None) for n in range(5)))

    before = connections()
    with bus_at(redis_url) as bus:
        for n in range(20):
            thread = threading.Thread(target=bus.publish, args=("a", n), kwargs={"using": None})
            thread.start()
            thread.join()
            asyncio.run(some(bus))
        assert len(bus.history("a")) == 120
        assert connections() - before <= 10
    wait_until(lambda: connections() <= before, "the connections to be closed")


def test_a_forked_child_does_not_keep_its_parents_connection(redis_server, redis_url):
    def listeners():
        return [c for c in redis_server.client().client_list() if int(c["sub"])]

    reading, writing = os.pipe()
    with bus_at(redis_url) as bus, bus.subscribe("a"):
        assert len(listeners()) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:  # pragma: no cover - because it is another process
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
    try:
        wait_until(lambda: not listeners(), "the connection to be closed")
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)
