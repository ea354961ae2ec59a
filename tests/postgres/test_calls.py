"""Calls of ``publish_many`` inside transactions: each is whole, whatever others do meanwhile."""

from __future__ import annotations

import json
import threading

import psycopg
import pytest
from django.db import connections, transaction

from flosse_bus.bus import Bus
from flosse_bus.test import item
from tests.postgres import database

HISTORY = json.dumps([[None, 100_000, None, None]])


def values(backend):
    """Return the data of all events, in the order of the log."""
    records = [r for h in backend.read(["**"]).topics.values() for r in h.records]
    return [r.to_event().data for r in sorted(records, key=lambda record: record.position)]


def settle(using, backend):
    """Give positions once, and return whether there is more."""
    [(more,)] = database.sql(
        using, "SELECT flosse_bus_settle(%s, %s, 60, true)", backend.config.key_prefix, HISTORY
    )
    return more


def test_calls_of_concurrent_transactions_do_not_mix(own):
    """Each row of a call takes a moment, so that those of several calls get their ids in turn."""
    writers, calls, size = 4, 3, 10
    for statement in (
        """
        CREATE FUNCTION take_a_moment() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_sleep(0.002);
            RETURN new;
        END $$
        """,
        "CREATE TRIGGER take_a_moment BEFORE INSERT ON flosse_bus_event "
        "FOR EACH ROW EXECUTE FUNCTION take_a_moment()",
    ):
        database.sql(own, statement)
    start, failed = threading.Barrier(writers), []

    def write(writer, bus):
        try:
            start.wait(10)
            with transaction.atomic(using=own):
                for call in range(calls):
                    topics = ["a", "b"] if call else ["b"]
                    events = [(topics[k % len(topics)], [writer, call, k]) for k in range(size)]
                    assert bus.publish_many(events, using=own) is None
        except BaseException as error:
            failed.append(error)
        finally:
            connections[own].close()

    with database.backend(own) as backend:
        bus = Bus(backend.config, backend)
        threads = [threading.Thread(target=write, args=(n, bus)) for n in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not failed
        ids = "SELECT body FROM flosse_bus_event ORDER BY id"
        drawn = [tuple(json.loads(bytes(body))[:2]) for (body,) in database.sql(own, ids)]
        assert len(blocks(drawn)) > writers * calls, "the test has not tested anything"
        found = values(backend)
        assert len(found) == writers * calls * size
        for at in range(0, len(found), size):
            writer, call, _ = found[at]
            assert found[at : at + size] == [[writer, call, k] for k in range(size)]
        for writer in range(writers):
            assert [call for who, call, k in found if (who, k) == (writer, 0)] == [0, 1, 2]


def blocks(names):
    """Return a list without repetitions of what has just been."""
    return [name for n, name in enumerate(names) if n == 0 or names[n - 1] != name]


@pytest.mark.parametrize("size", [2001, 3500, 10_000])
def test_nothing_comes_into_a_call_that_is_larger_than_what_is_numbered_at_a_time(
    pg, tables_uri, size
):
    with database.backend(pg, history_size=100_000) as backend:
        bus = Bus(backend.config, backend)
        with psycopg.connect(tables_uri) as slow:
            # It was there before, and commits when the call has begun to get its positions.
            slow.execute(
                "SELECT flosse_bus_publish('a', '-1', NULL, %s)", (backend.config.key_prefix,)
            )
            with transaction.atomic(using=pg):
                bus.publish_many([("ab"[n % 2], n) for n in range(size)], using=pg)
            settle(pg, backend)
            slow.commit()
        last = bus.publish("a", -2)
        assert values(backend) == [*range(size), -1, -2]
        assert backend.tail() == backend.read(["a"]).topics["a"].records[-1].cursor
        assert last.id == str(backend.tail())


def test_what_is_numbered_at_a_time_is_bounded_and_cuts_no_call(pg):
    sizes = [1, 1500, 1500, 700, 1, 1, 1999, 2000, 1, 3000, 5]
    with database.backend(pg, history_size=100_000) as backend:
        bus, given = Bus(backend.config, backend), [0]
        for call, size in enumerate(sizes):
            with transaction.atomic(using=pg):
                bus.publish_many([("a", [call, n]) for n in range(size)], using=pg)
        ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
        count = "SELECT count(position) FROM flosse_bus_event WHERE bus = %s"
        while True:
            more = settle(pg, backend)
            [(number,)] = database.sql(pg, count, backend.config.key_prefix)
            given.append(number)
            assert number in ends
            assert number - given[-2] < 2000 + max(sizes)
            assert more == (number - given[-2] >= 2000)
            if not more:
                break
        assert number == ends[-1]
        assert len(given) > 4
        assert values(backend) == [[c, n] for c, size in enumerate(sizes) for n in range(size)]


def test_calls_of_one_transaction_keep_their_order(pg):
    with database.backend(pg) as backend:
        bus = Bus(backend.config, backend)
        with transaction.atomic(using=pg):
            bus.publish("a", 0, using=pg)
            bus.publish_many([("a", 1), ("b", 2), ("a", 3)], using=pg)
            point = transaction.savepoint(using=pg)
            bus.publish_many([("b", "gone"), ("a", "gone")], using=pg)
            transaction.savepoint_rollback(point, using=pg)
            bus.publish("b", 4, using=pg, idempotency_key="known")
            backend.enlist(
                [item("a", "left out", key="known"), item("a", 5, key="new"), item("b", 6)], pg
            )
            bus.publish_many([("a", 7), ("c", 8)], using=pg)
        assert values(backend) == list(range(9))
