"""bus.publish, cursor and history: what a user sees, on the default bus."""

from __future__ import annotations

import datetime

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from flosse_bus import Event, bus
from flosse_bus.exceptions import (
    EventTooLarge,
    HistoryGone,
    InvalidCursor,
    InvalidEvent,
    InvalidTopic,
)


def data(events):
    return [event.data for event in events]


def test_publish_returns_the_event():
    event = bus.publish("orders", {"id": 1}, event="created")
    assert isinstance(event, Event)
    assert (event.topic, event.data, event.event) == ("orders", {"id": 1}, "created")
    assert event.published_at.tzinfo is datetime.timezone.utc
    assert bus.history("orders") == [event]


def test_apublish(run):
    async def main():
        event = await bus.apublish("orders", "text")
        assert await bus.ahistory("orders") == [event]
        assert await bus.acursor("orders") == event.id

    run(main())


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("a b", 1), InvalidTopic),
        (("orders.*", 1), InvalidTopic),
        (("orders", object()), InvalidEvent),
        (("orders", "x" * 101), EventTooLarge),
    ],
)
@pytest.mark.django_db
def test_bad_input_is_refused_at_once_and_loses_nothing_else(configure, args, error):
    configure(MAX_EVENT_SIZE=100)
    with transaction.atomic():
        bus.publish("orders", 1, using=None)
        with pytest.raises(error):
            bus.publish(*args)
    assert data(bus.history("orders")) == [1]


def test_later_changes_to_the_data_do_not_show():
    payload = {"n": [1]}
    bus.publish("orders", payload)
    payload["n"].append(2)
    assert data(bus.history("orders")) == [{"n": [1]}]


def test_history():
    events = [bus.publish("t", n) for n in range(5)]
    bus.publish("other", "x")
    assert bus.history("t") == events
    assert data(bus.history("t", limit=2)) == [3, 4]
    assert data(bus.history("t", after=events[1].id)) == [2, 3, 4]
    assert data(bus.history("t", after=events[1].id, limit=2)) == [2, 3]
    assert data(bus.history("t", after="earliest", limit=2)) == [0, 1]
    assert bus.history("t", after=bus.cursor()) == []
    assert bus.history("none") == []


def test_history_that_is_gone_is_said_to_be_gone(configure):
    configure(HISTORY_SIZE=2)
    events = [bus.publish("t", n) for n in range(5)]
    assert data(bus.history("t", after=events[2].id)) == [3, 4]
    with pytest.raises(HistoryGone, match="'t' has lost events.*HISTORY_SIZE"):
        bus.history("t", after=events[1].id)
    bus.backend.flush()
    with pytest.raises(HistoryGone, match="not a cursor of this bus's log"):
        bus.history("t", after=events[4].id)


def test_history_of_the_future_is_not_known():
    epoch = bus.cursor().rpartition("-")[0]
    with pytest.raises(HistoryGone):
        bus.history("t", after=f"{epoch}-99")


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"topic": "a.*"}, InvalidTopic),
        ({"topic": "t", "after": "garbage"}, InvalidCursor),
        ({"topic": "t", "limit": 0}, ValueError),
        ({"topic": "t", "limit": "5"}, ValueError),
    ],
)
def test_bad_questions(kwargs, error):
    with pytest.raises(error):
        bus.history(**kwargs)


def test_cursor_checks_its_topics():
    assert bus.cursor("orders", "orders.*") == bus.cursor()
    with pytest.raises(InvalidTopic):
        bus.cursor("or ders")


class TestTransactions:
    pytestmark = pytest.mark.django_db(transaction=True)

    def test_outside_at_once(self):
        assert bus.publish("t", 1) is not None

    def test_sent_on_the_outermost_commit_in_order(self):
        with transaction.atomic():
            assert bus.publish("t", 1) is None
            with transaction.atomic():
                bus.publish("t", 2)
            bus.publish("t", 3)
            assert bus.history("t") == []
        assert data(bus.history("t")) == [1, 2, 3]

    def test_a_rollback_drops(self):
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            bus.publish("t", 1)
            raise ZeroDivisionError
        assert bus.history("t") == []

    def test_a_savepoint_drops_only_its_own(self):
        with transaction.atomic():
            bus.publish("t", 1)
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                bus.publish("t", 2)
                raise ZeroDivisionError
            bus.publish("t", 3)
        assert data(bus.history("t")) == [1, 3]

    def test_using_none_does_not_wait(self):
        with transaction.atomic():
            assert bus.publish("t", 1, using=None) is not None
            assert data(bus.history("t")) == [1]

    def test_apublish_waits_for_the_transaction_of_its_caller(self):
        with transaction.atomic():
            assert async_to_sync(bus.apublish)("t", 1) is None
            assert async_to_sync(bus.apublish)("t", 2, using=None) is not None
        assert data(bus.history("t")) == [2, 1]

    def test_data_are_taken_when_published(self):
        payload = [1]
        with transaction.atomic():
            bus.publish("t", payload)
            payload.append(2)
        assert data(bus.history("t")) == [[1]]

    def test_one_event_that_fails_on_commit_takes_no_other_with_it(self, monkeypatch, caplog):
        publish = bus.backend.publish

        def fail_on_two(item):
            if item.body == b"2":
                raise RuntimeError("broken")
            return publish(item)

        monkeypatch.setattr(bus.backend, "publish", fail_on_two)
        with transaction.atomic():
            for n in (1, 2, 3):
                bus.publish("t", n)
        assert data(bus.history("t")) == [1, 3]
        assert "event for topic t was committed but not published" in caplog.text
