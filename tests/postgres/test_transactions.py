"""Publishing inside transactions: an outbox whose events get their positions afterwards."""

from __future__ import annotations

import random
import threading

import psycopg
import pytest
from django.db import connections, transaction

from flosse_bus.bus import Bus
from flosse_bus.cursor import Cursor
from flosse_bus.test import item
from flosse_bus.test.base import topics
from tests.postgres import database


class Undo(Exception):
    pass


def kept(backend, *names):
    records = [r for h in backend.read(names).topics.values() for r in h.records]
    return sorted(records, key=lambda record: record.position)


def values(records):
    return [record.to_event().data for record in records]


def test_events_are_published_when_the_transaction_commits(pg):
    with database.backend(pg) as backend:
        bus = Bus(backend.config, backend)
        with transaction.atomic(using=pg):
            assert bus.publish("a", {"n": 1}, event="e", using=pg) is None
            assert bus.publish("b", "nul \x00 and \u2028", using=pg) is None
            assert kept(backend, "**") == []
        first, second = kept(backend, "**")
        assert (first.topic, first.event, first.to_event().data) == ("a", "e", {"n": 1})
        assert (second.text, second.to_event().data) == (True, "nul \x00 and \u2028")
        assert [first.position, second.position] == [1, 2]
        assert backend.tail() == second.cursor


def test_nothing_of_what_is_rolled_back_is_published(pg):
    with database.backend(pg) as backend:
        bus = Bus(backend.config, backend)
        with pytest.raises(Undo), transaction.atomic(using=pg):
            bus.publish("a", 1, using=pg)
            raise Undo
        with transaction.atomic(using=pg):
            bus.publish("a", 2, using=pg)
            with pytest.raises(Undo), transaction.atomic(using=pg):
                bus.publish("a", 3, using=pg)
                raise Undo
            bus.publish("a", 4, using=pg)
        assert values(kept(backend, "a")) == [2, 4]


def test_another_database_is_not_part_of_it(pg):
    with database.backend(pg) as backend:
        assert backend.enlist([item("a")], "default") is False
        assert kept(backend, "a") == []


def test_what_is_published_now_comes_after_what_was_committed_before(pg):
    with database.backend(pg) as backend:
        bus = Bus(backend.config, backend)
        with transaction.atomic(using=pg):
            bus.publish("a", 1, using=pg)
        bus.publish("a", 2, using=pg)
        first, second = kept(backend, "a")
        assert values([first, second]) == [1, 2]
        assert second.previous == first.position


def test_a_large_transaction_is_numbered_in_order_and_trimmed(pg):
    with database.backend(pg, history_size=50) as backend:
        backend.publish(item("t.0", "before"))
        with transaction.atomic(using=pg):
            for n in range(4500):
                backend.enlist([item(f"t.{n % 3}", n)], pg)
        last = backend.publish(item("t.0", "after"))
        assert last.position == 4502
        snapshot = backend.read(["t.*"])
        for n in range(3):
            history = snapshot.topics[f"t.{n}"]
            wanted = [*range(n, 4500, 3), *["after"][n:]]
            assert values(history.records) == wanted[-50:]
            assert history.records[0].previous == history.evicted
            for before, record in zip(history.records, history.records[1:], strict=False):
                assert record.previous == before.position
        count = "SELECT count(*) FROM flosse_bus_event WHERE bus = %s"
        assert database.sql(pg, count, backend.config.key_prefix) == [(150,)]


def test_a_smaller_history_size_applies_to_what_is_there(pg):
    prefix = database.config().key_prefix
    with database.backend(pg, history_size=300, key_prefix=prefix) as backend:
        for n in range(300):
            backend.publish(item("a", n))
    with database.backend(pg, history_size=10, key_prefix=prefix) as backend:
        assert values(kept(backend, "a")) == list(range(290, 300))
        assert backend.read(["a"]).topics["a"].evicted == 290
        for n in range(300, 305):
            backend.publish(item("a", n))
        assert values(kept(backend, "a")) == list(range(295, 305))
        count = "SELECT count(*) FROM flosse_bus_event WHERE bus = %s"
        assert database.sql(pg, count, prefix) == [(10,)]


def test_topics_of_which_all_has_expired_are_forgotten(pg):
    with database.backend(pg, history_ttl=0.5) as backend:
        for n in range(50):
            backend.publish(item(f"dead.{n}"))
        while kept(backend, "**"):
            pass
        for n in range(60):
            backend.publish(item(f"living.{n % 2}"))
        snapshot = backend.read(["**"])
        assert set(snapshot.topics) <= {"living.0", "living.1"}
        assert snapshot.forgotten == 50
        again = backend.publish(item("dead.7"))
        assert again.previous == 0
        assert 50 <= backend.read(["dead.7"]).topics["dead.7"].evicted < again.position


@pytest.mark.parametrize("seed", range(2))
def test_no_position_appears_late(pg, tables_uri, seed):
    """Readers that resume at any cursor see all that was committed, in order, and nothing else."""
    with database.backend(pg, history_size=10_000) as backend:
        committed, refused = [], []
        threads = [
            threading.Thread(
                target=_write, args=(tables_uri, backend, writer, seed, committed, refused)
            )
            for writer in range(8)
        ]
        for thread in threads:
            thread.start()
        choose, seen, cursors = random.Random(seed), {}, [0]
        while True:
            over = not any(thread.is_alive() for thread in threads)
            after = choose.choice(cursors[-20:])
            snapshot = backend.read(["**"])
            for history in snapshot.topics.values():
                for record in history.records:
                    known = seen.setdefault(record.position, record)
                    assert known == record
            positions = sorted(seen)
            # Nothing has come up below a place where a reader has been before.
            assert positions == list(range(1, snapshot.tail.position + 1))
            assert after <= snapshot.tail.position
            cursors.append(snapshot.tail.position)
            if over:
                break
        found = [record.to_event().data for _, record in sorted(seen.items())]
        assert sorted(map(tuple, found)) == sorted(committed)
        assert not {tuple(one) for one in found} & set(refused)
        for writer in range(8):
            mine = [n for who, n in found if who == writer]
            assert mine == sorted(mine)
        assert backend.tail() == Cursor(snapshot.tail.epoch, len(committed))


def _write(uri, backend, writer, seed, committed, refused):
    choose = random.Random(f"{seed} {writer}")
    number = 0
    with psycopg.connect(uri) as connection:
        for _ in range(25):
            if choose.random() < 0.3:
                backend.publish(item(f"t.{choose.randrange(5)}", [writer, number]))
                committed.append((writer, number))
                number += 1
                continue
            events = []
            for _ in range(choose.randrange(1, 5)):
                connection.execute(
                    "SELECT flosse_bus_publish(%s, jsonb_build_array(%s::int, %s::int), NULL, %s)",
                    (f"t.{choose.randrange(5)}", writer, number, backend.config.key_prefix),
                )
                connection.execute("SELECT pg_sleep(%s)", (choose.random() / 200,))
                events.append((writer, number))
                number += 1
            if choose.random() < 0.7:
                connection.commit()
                committed += events
            else:
                connection.rollback()
                refused += events


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_transactions_of_any_isolation_publish(pg, level):
    with database.backend(pg) as backend:
        with transaction.atomic(using=pg):
            connections[pg].cursor().execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            backend.enlist([item("a", level)], pg)
        assert values(kept(backend, "a")) == [level]


def test_keys_are_claimed_by_the_transaction_that_commits(pg):
    with database.backend(pg) as backend:
        bus = Bus(backend.config, backend)
        with pytest.raises(Undo), transaction.atomic(using=pg):
            bus.publish("a", 1, using=pg, idempotency_key="k")
            raise Undo
        with transaction.atomic(using=pg):
            for n in (2, 3):
                assert bus.publish("a", n, using=pg, idempotency_key="k") is None
            backend.enlist(
                [item("b", 4, key="k"), item("b", 5, key="l"), item("b", 6, key="l")], pg
            )
        first, second = kept(backend, "**")
        assert values([first, second]) == [2, 5]
        assert backend.publish(item("c", 7, key="k")) == first
        with transaction.atomic(using=pg):
            bus.publish("a", 8, using=pg, idempotency_key="l")
        assert backend.publish(item("c", 9, key="l")) == second
        assert backend.tail() == second.cursor


def test_a_key_of_an_open_transaction_holds_up_nothing_but_itself(pg, tables_uri):
    with database.backend(pg) as backend:
        first = backend.publish(item("a", 0, key="old"))
        got = []
        with psycopg.connect(tables_uri) as connection:
            connection.execute(
                "SELECT flosse_bus_enlist(%s, '{a}', '{NULL}', ARRAY['1'::bytea], '{f}', %s, 60)",
                (backend.config.key_prefix, ["k"]),
            )
            connection.execute(
                "SELECT flosse_bus_enlist(%s, '{a}', '{NULL}', ARRAY['9'::bytea], '{f}', %s, 60)",
                (backend.config.key_prefix, ["old"]),
            )
            waiting = threading.Thread(
                target=lambda: got.append(backend.publish(item("a", 2, key="k")))
            )
            waiting.start()
            third = backend.publish(item("a", 3))
            assert third.position == first.position + 1
            assert backend.publish(item("a", 4, key="other")).position == third.position + 1
            assert got == []
            connection.commit()
        waiting.join(10)
        assert values(got) == [1]
        assert values(kept(backend, "a")) == [0, 3, 4, 1]


def test_what_transactions_publish_is_kept_as_its_topic_is(pg, tables_uri):
    patterns = topics(
        {"few.*": {"size": 2}, "short": {"ttl": 0.2}, "small": {"max_bytes": 10, "ttl": None}}
    )
    with database.backend(pg, history_size=4, topics=patterns) as backend:
        with psycopg.connect(tables_uri) as connection:
            for n in range(6):
                for topic in ("few.1", "many", "short", "small"):
                    connection.execute(
                        "SELECT flosse_bus_publish(%s, %s, NULL, %s)",
                        (topic, f'"{n:04}"', backend.config.key_prefix),
                    )
        assert values(kept(backend, "few.1")) == ["0004", "0005"]
        assert values(kept(backend, "many")) == ["0002", "0003", "0004", "0005"]
        assert values(kept(backend, "small")) == ["0004", "0005"]
        while kept(backend, "short"):
            pass
        for n in range(40):
            backend.publish(item("other", n))
        rows = "SELECT topic, count(*) FROM flosse_bus_event WHERE bus = %s GROUP BY 1 ORDER BY 1"
        assert database.sql(pg, rows, backend.config.key_prefix) == [
            ("few.1", 2), ("many", 4), ("other", 4), ("small", 2),
        ]  # fmt: skip


def test_a_shorter_ttl_leaves_no_hole(pg):
    prefix = database.config().key_prefix
    with database.backend(pg, key_prefix=prefix, history_ttl=3600) as backend:
        backend.publish(item("a", 1))
    with database.backend(pg, key_prefix=prefix, history_ttl=0.05) as backend:
        gone = backend.publish(item("a", 2))
        while kept(backend, "a"):
            pass
        for n in range(40):
            backend.publish(item(f"b.{n}"))
    with database.backend(pg, key_prefix=prefix, history_ttl=3600) as backend:
        last = backend.publish(item("a", 3))
        history = backend.read(["a"]).topics["a"]
        assert history.records == (last,)
        assert gone.position <= history.evicted < last.position


def test_a_truncated_log_knows_no_keys(own):
    """Else an event with a key of the old log would be dropped from its transaction in silence."""
    with database.backend(own) as backend:
        bus = Bus(backend.config, backend)
        bus.publish("a", 1, using=own, idempotency_key="k")
        database.sql(own, "TRUNCATE flosse_bus_event")
        with transaction.atomic(using=own):
            bus.publish("a", 2, using=own, idempotency_key="k")
        assert [event.data for event in bus.history("a")] == [2]
