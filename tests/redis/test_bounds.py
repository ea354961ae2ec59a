"""What Redis itself is told of the bounds of a topic, and processes that do not agree on them."""

from __future__ import annotations

import contextlib
import random

import pytest

from flosse_bus.test import item
from flosse_bus.test.base import topics
from tests.redis.help import backend_at


@contextlib.contextmanager
def closing(*backends):
    try:
        yield backends
    finally:
        for backend in backends:
            backend.close()


def test_a_topic_that_is_to_be_kept_for_ever_does_not_expire(redis_server, redis_url):
    for_a_time, for_ever = backend_at(redis_url), backend_at(redis_url, history_ttl=None)
    with closing(for_a_time, for_ever):
        for_a_time.publish(item("a"))
        assert redis_server.execute("PTTL", "{flosse}:s:a") > 0
        for_ever.publish(item("a"))
        assert redis_server.execute("PTTL", "{flosse}:s:a") == -1
        for_a_time.publish(item("a"))
        assert redis_server.execute("PTTL", "{flosse}:s:a") > 0


def test_bytes_are_counted_over_entries_that_do_not_count_them(redis_url):
    """One process counts, one does not, and drops by size what was counted."""
    counting = backend_at(redis_url, history_bytes=100)
    other = backend_at(redis_url, history_size=3)
    with closing(counting, other):
        for backend in (counting, other, counting, other):
            backend.publish(item("a", "x" * 30))
        last = [counting.publish(item("a", "x" * 30)) for _ in range(2)]
        kept = counting.read(["a"]).topics["a"]
        assert [record.size for record in kept.records] == [30, 30, 30]
        assert kept.records[1:] == tuple(last)


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_in_bytes_holds_whoever_wrote(redis_url, seed):
    chosen = random.Random(seed)
    counting = backend_at(redis_url, history_bytes=500, history_size=20)
    others = [backend_at(redis_url, history_size=size) for size in (5, 50)]
    with closing(counting, *others):
        sizes = []
        for _ in range(150):
            backend = chosen.choice([counting, counting, *others])
            size = chosen.choice([1, 10, 100, 400, 600])
            backend.publish(item("a", "x" * size))
            sizes.append(size)
            del sizes[: -backend.config.history_size]
            if backend is counting:
                while len(sizes) > 1 and sum(sizes) > 500:
                    del sizes[0]
            kept = counting.read(["a"]).topics["a"].records
            assert [record.size for record in kept] == sizes


def test_looks_for_dead_topics_go_round(redis_server, redis_url):
    backend = backend_at(redis_url, topics=topics({"always.*": {"ttl": None}}))
    with closing(backend):
        for n in range(100):
            backend.publish(item(f"always.{n}"))
            backend.publish(item(f"dead.{n}"))
        for _ in range(2):  # the second time as in a log that has been looked through before
            redis_server.execute("DEL", *(f"{{flosse}}:s:dead.{n}" for n in range(100)))
            for _ in range(250):
                backend.publish(item("busy"))
            heads = redis_server.execute("ZRANGE", "{flosse}:heads", "0", "-1")
            assert not [name for name in heads if name.startswith("dead")]
            for n in range(100):
                backend.publish(item(f"dead.{n}"))


def test_new_topics_do_not_gather(redis_server, redis_url):
    backend = backend_at(redis_url, topics=topics({"always.*": {"ttl": None}}))
    with closing(backend):
        for n in range(50):
            backend.publish(item(f"always.{n}"))
        for n in range(600):
            backend.publish(item(f"new.{n}"))
            if n >= 100:  # as many live at a time
                redis_server.execute("DEL", f"{{flosse}}:s:new.{n - 100}")
            assert redis_server.execute("ZCARD", "{flosse}:heads") < 2 * (50 + 100) + 100


def test_heads_without_books_are_no_trouble(redis_server, redis_url):
    backend = backend_at(redis_url)
    with closing(backend):
        backend.publish(item("dead"))
        redis_server.execute("DEL", "{flosse}:s:dead", "{flosse}:log")
        again = backend.publish(item("a"))
        assert (again.position, again.previous) == (1, 0)
        assert set(backend.read(["**"]).topics) == {"a"}
