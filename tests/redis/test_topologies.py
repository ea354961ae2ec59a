"""A real Redis Cluster and a real Sentinel."""

from __future__ import annotations

import contextlib

import pytest

from flosse_bus.exceptions import BackendUnavailable
from tests.brokers import RedisCluster, RedisSentinel
from tests.processes import wait_until
from tests.redis.help import bus_at, publish, round_trip, taken

pytestmark = pytest.mark.server
LOG = "{flosse}:log"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with RedisCluster(tmp_path_factory.mktemp("cluster"), replicas=1) as cluster:
        yield cluster


@pytest.fixture
def sentinel(tmp_path):
    with RedisSentinel(tmp_path) as sentinel:
        yield sentinel


def test_a_bus_finds_its_node_from_any_other(cluster):
    owner = cluster.owner_of(LOG)
    for node in cluster.running():
        with bus_at(node.url) as bus:
            round_trip(bus)
    keys = owner.execute("KEYS", "*")
    assert {LOG, "{flosse}:heads", "{flosse}:s:a"} == set(keys)
    # The first of several does not answer.
    with bus_at(f"redis://127.0.0.1:1,{owner.url}") as bus:
        round_trip(bus)


def test_a_slot_that_moves_takes_its_streams_along(cluster):
    with bus_at(cluster.urls[0]) as bus, bus.subscribe("a", "b") as events:
        sent = [publish(bus, "a", n) for n in range(3)]
        old = cluster.owner_of(LOG)
        new = next(node for node in cluster.masters() if node is not old)
        cluster.begin_move(LOG, new)
        refused = 0
        for n in range(3, 6):  # keys that are there are there, and new ones are asked for elsewhere
            with contextlib.suppress(BackendUnavailable):
                sent.append(bus.publish("a", n, using=None))
                continue
            refused += 1
        cluster.finish_move(LOG, new)
        assert cluster.owner_of(LOG) is new
        sent += [publish(bus, "b", "moved"), publish(bus, "a", "too")]
        assert [next(events) for _ in sent] == sent
        with bus.subscribe("a", "b", after=sent[0].id) as again:
            assert [next(again) for _ in sent[1:]] == sent[1:]
        cluster.move_slot(LOG, old)
        last = publish(bus, "b", "and back")
        assert next(events) == last


@pytest.mark.parametrize("how", ["fail_over", "kill_owner"])
def test_a_cluster_fail_over_carries_on(cluster, how):
    with bus_at(cluster.urls[0]) as bus, bus.subscribe("a", "quiet") as events:
        sent = [publish(bus, "a", n) for n in range(3)]
        assert taken(events, 3) == [0, 1, 2]
        old = cluster.owner_of(LOG)
        _replicated(old, cluster.replica_of(old))
        getattr(cluster, how)(LOG)
        sent.append(publish(bus, "a", 3))
        assert taken(events, 1) == [3]
        with bus.subscribe("a", after=sent[0].id) as again:
            assert taken(again, 3) == [1, 2, 3]
    if not old.process.running:
        old.start()
        cluster.wait()


@pytest.mark.parametrize("how", ["fail_over", "kill_master"])
def test_a_sentinel_fail_over_carries_on(sentinel, how):
    options = {"sentinels": sentinel.sentinels}
    with bus_at("redis://flosse/0", options=options) as bus, bus.subscribe("a", "b") as events:
        sent = [publish(bus, "a", n) for n in range(3)]
        assert taken(events, 3) == [0, 1, 2]
        _replicated(sentinel.master(), sentinel.replica())
        getattr(sentinel, how)()
        if how == "fail_over":
            sentinel.demote()  # what happens by itself after a while
        sent.append(publish(bus, "b", 3))
        assert taken(events, 1) == [3]
        with bus.subscribe("a", "b", after=sent[0].id) as again:
            assert taken(again, 3) == [1, 2, 3]
        round_trip(bus)


def test_what_a_fail_over_loses_is_a_reset(sentinel):
    """A replica that has not heard of the last events takes over."""
    options = {"sentinels": sentinel.sentinels}
    with bus_at("redis://flosse/0", options=options) as bus:
        kept = publish(bus, "a", "kept")
        with bus.subscribe("a", after=kept.id) as events, bus.subscribe("b") as others:
            _replicated(sentinel.master(), sentinel.replica())
            sentinel.replica().pause()
            sentinel.master().execute("CLIENT", "KILL", "TYPE", "replica")
            lost = publish(bus, "a", "lost")
            assert taken(events, 1) == ["lost"]
            old = sentinel.master()
            old.kill()
            sentinel.replica().resume()
            wait_until(lambda: sentinel.master() not in (None, old), "the fail-over")
            publish(bus, "b", "of others")
            assert taken(events, 1) == ["unknown"]
            assert taken(others, 1) == ["of others"]
        with bus.subscribe("a", after=lost.id) as events:
            assert taken(events, 1) == ["unknown"]
        with bus.subscribe("b", after=kept.id) as events:
            assert taken(events, 1) == ["of others"]


def test_a_sentinel_that_knows_no_such_service_says_so(sentinel):
    options = {"sentinels": sentinel.sentinels}
    with (
        bus_at("redis://other/0", options=options) as bus,
        pytest.raises(BackendUnavailable, match="other"),
    ):
        bus.publish("a", 1, using=None)


def _replicated(master, replica):
    """Wait until the replica has what the master has."""
    wait_until(
        lambda: (
            master.info("replication")["master_repl_offset"]
            == replica.info("replication")["master_repl_offset"]
        ),
        "the replica to catch up",
    )


@pytest.mark.parametrize("first", ["books", "streams"])
def test_a_slot_that_is_half_moved_loses_nothing(cluster, first):
    with bus_at(cluster.urls[0]) as bus:
        bus.backend.flush()
        sent = [publish(bus, topic, n) for n, topic in enumerate("aabb")]
        old = cluster.owner_of(LOG)
        new = next(node for node in cluster.masters() if node is not old)
        cluster.begin_move(LOG, new)
        books = [LOG, "{flosse}:heads"]
        moved = books if first == "books" else ["{flosse}:s:a"]
        old.execute("MIGRATE", "127.0.0.1", new.port, "", 0, 5000, "KEYS", *moved)
        for n in range(5):
            for topic in "abc":
                with contextlib.suppress(BackendUnavailable):
                    sent.append(bus.publish(topic, ["meanwhile", n], using=None))
                with contextlib.suppress(BackendUnavailable):
                    after = [event for event in sent if event.topic == topic]
                    assert bus.history(topic) == after  # never that history is gone
        cluster.finish_move(LOG, new)
        sent += [publish(bus, topic, "after") for topic in "abc"]
        for topic in "abc":
            assert bus.history(topic) == [event for event in sent if event.topic == topic]
        with bus.subscribe("*", after=sent[0].id) as events:
            assert [next(events) for _ in sent[1:]] == sent[1:]
        cluster.move_slot(LOG, old)


def test_a_closed_bus_still_knows_the_other_nodes(cluster):
    with bus_at(f"redis://127.0.0.1:1,{cluster.urls[0]}") as bus:
        bus.cursor()
        bus.backend.close()
        bus.cursor()
