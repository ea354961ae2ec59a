"""What the Redis backend writes and reads, on a pretended Redis: quick, and no proof of a real one."""

from __future__ import annotations

import dataclasses

import fakeredis
import pytest
import redis

from flosse_bus.backends.redis import RedisBackend
from flosse_bus.backends.redis.records import Keys, parse_ancestors, parse_entry, split
from flosse_bus.bus import Bus
from flosse_bus.conf import load
from flosse_bus.exceptions import BackendUnavailable
from flosse_bus.message import Message
from flosse_bus.test import item
from flosse_bus.test.base import topics
from flosse_bus.wire import Decoder


@pytest.fixture
def backend():
    pytest.importorskip("lupa", reason="fakeredis runs scripts with lupa")
    pool = fakeredis.FakeRedis(server=fakeredis.FakeServer()).connection_pool
    config = dataclasses.replace(load("default"), history_size=3)
    return RedisBackend(config, connection_pool=pool)


def test_what_is_published_is_kept(backend):
    sent = [backend.publish(item("a", {"n": n}, "named")) for n in range(5)]
    other = backend.publish(item("b.c", "text"))
    snapshot = backend.read(["a", "b.*", "c"])
    assert snapshot.topics["a"].records == tuple(sent[2:])
    assert snapshot.topics["a"].evicted == sent[1].position
    assert snapshot.topics["b.c"].records == (other,)
    assert snapshot.tail == backend.tail() == other.cursor
    backend.flush()
    assert backend.read(["**"]).topics == {}
    assert backend.tail().epoch != other.epoch


def test_what_a_class_has_lost_is_kept_for_it(backend):
    patterns = topics({"a-b.*": {"ttl": 60}, "c.*": {}})
    config = dataclasses.replace(backend.config, topics=patterns)
    pool = backend._connections._make_pool()
    classed = RedisBackend(config, connection_pool=pool)
    gone = classed.publish(item("a-b.1"))
    server = redis.Redis(connection_pool=pool)
    server.delete("{flosse}:s:a-b.1")
    for n in range(40):
        classed.publish(item(f"c.{n}"))
    snapshot = classed.read([])
    assert (snapshot.forgotten, snapshot.forgotten_by) == (0, {0: gone.position})
    assert backend.read([]).forgotten == gone.position  # with other TOPICS it counts for all
    classed.publish_many([item("a-b.2"), item("rest")])
    topics_now = classed.read(["a-b.2", "rest"]).topics
    assert topics_now["a-b.2"].evicted == gone.position
    assert topics_now["rest"].evicted == 0


def test_what_cannot_be_listened_on_says_so(backend):
    bus = Bus(backend.config, backend)
    with pytest.raises(BackendUnavailable, match="not listened on"), bus.subscribe("a"):
        pass  # pragma: no cover - because it does not come to this
    bus.close()


@pytest.mark.parametrize(
    ("pattern", "lua"),
    [
        ("*", "^[^.]*$"),
        ("**", "^.+$"),
        ("a.**", "^a%..*$"),
        ("a-b.*.c@d", "^a%-b%.[^.]*%.c@d$"),
    ],
)
def test_patterns_become_lua_patterns(pattern, lua):
    assert split([pattern, "topic"]) == (["topic"], [lua])


def test_keys_of_a_bus_are_in_one_slot():
    keys = Keys("shop")
    assert {name[:6] for name in (keys.log, keys.heads, keys.streams)} == {"{shop}"}
    assert keys.channel("a.**") == b"{shop}:c:a.*"
    assert keys.topic(keys.channel("a.b")) == "a.b"


def test_ancestors_are_read():
    assert parse_ancestors(b"") == {}
    assert parse_ancestors(b"abc 12\ndef 0\n") == {"abc": 12, "def": 0}


@pytest.mark.parametrize("envelope", [True, False])
def test_an_entry_of_another_program_can_be_framed(envelope):
    entry = b"abc 2 1 0 1.5 te na\xffme\nda\xffta"
    block = Message(parse_entry("a", entry)).frame(envelope=envelope)
    (seen,) = Decoder().feed(block)
    assert "da\ufffdta" in seen.data
    assert "na\ufffdme" in (seen.data if envelope else seen.event)
