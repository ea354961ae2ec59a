"""bus.publish, cursor and history: what a user sees, on the default bus."""

from __future__ import annotations

import contextlib
import datetime
import sys

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionDoesNotExist

from flosse_bus import Event, bus
from flosse_bus.exceptions import (
    EventTooLarge,
    HistoryGone,
    InvalidCursor,
    InvalidEvent,
    InvalidTopic,
)

#: The package has a bus of the same name.
MODULE = sys.modules["flosse_bus.bus"]


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

    def test_events_that_fail_on_commit_are_logged_and_stop_nothing(self, monkeypatch, caplog):
        def fail(items):
            raise RuntimeError("broken")

        monkeypatch.setattr(bus.backend, "publish_many", fail)
        done = []
        with transaction.atomic():
            bus.publish("t", 1)
            bus.publish("u", 2)
            transaction.on_commit(lambda: done.append(True))
        assert done == [True]
        assert "event for topic t, u was committed but not published" in caplog.text

    def test_the_events_of_a_transaction_go_out_in_one_call(self, monkeypatch):
        calls = spy(monkeypatch)
        with transaction.atomic():
            bus.publish("t", 1)
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                bus.publish("t", 2)
                with transaction.atomic():
                    bus.publish("t", 3)
                raise ZeroDivisionError
            with transaction.atomic():
                bus.publish("t", 4)
                with transaction.atomic():
                    bus.publish_many([("t", 5), ("u", 6, "name")])
            transaction.on_commit(lambda: None)
            bus.publish("t", 7)
        assert calls == [["t 1", "t 4", "t 5", "u 6", "t 7"]]
        with transaction.atomic():
            bus.publish("t", 8)
            bus.publish("t", 9)
        assert calls[1:] == [["t 8", "t 9"]]

    def test_the_first_events_rolled_back_hold_up_no_others(self, monkeypatch):
        calls = spy(monkeypatch)
        with transaction.atomic():
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                bus.publish("t", 1)
                raise ZeroDivisionError
            bus.publish("t", 2)
            bus.publish("t", 3)
        assert calls == [["t 2", "t 3"]]

    def test_nothing_of_a_transaction_gets_into_the_next(self, monkeypatch):
        calls = spy(monkeypatch)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            bus.publish("t", 1)
            raise ZeroDivisionError
        with transaction.atomic():
            bus.publish("t", 2)
            bus.publish("t", 3)
        assert calls == [["t 2", "t 3"]]

    def test_a_hook_of_another_app_that_fails_takes_no_event_with_it(self):
        def fail():
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), transaction.atomic():
            bus.publish("t", 1)
            transaction.on_commit(fail)
            bus.publish("t", 2)
        assert data(bus.history("t")) == [1, 2]

    def test_nor_one_that_was_registered_before(self, monkeypatch):
        calls = spy(monkeypatch)
        found = []

        def fail():
            found.extend(bus.history("t"))
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), transaction.atomic():
            transaction.on_commit(fail)
            bus.publish("t", 1)
            with contextlib.suppress(KeyError), transaction.atomic():
                bus.publish("t", 2)
                raise KeyError
            transaction.on_commit(fail)
            bus.publish("t", 3)
        assert (found, calls) == ([], [["t 1", "t 3"]])
        with transaction.atomic():
            bus.publish("t", 4)
        assert data(bus.history("t")) == [1, 3, 4]

    def test_hooks_of_other_apps_keep_their_place(self):
        found = []

        def look():
            found.append(data(bus.history("t")))

        with transaction.atomic():
            transaction.on_commit(look)
            bus.publish("t", 1)
            transaction.on_commit(look)
            bus.publish("t", 2)
        assert found == [[], [1, 2]]

    def test_a_hook_may_publish(self):
        def publish():
            with transaction.atomic():
                bus.publish("t", 3)
            bus.publish("t", 4)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), transaction.atomic():
            transaction.on_commit(publish)
            bus.publish("t", 1)
            bus.publish("t", 2)
        assert data(bus.history("t")) == [3, 4, 1, 2]

    def test_nothing_is_sent_by_asking_for_the_hooks_too_early(self):
        with transaction.atomic():
            bus.publish("t", 1)
            with pytest.raises(transaction.TransactionManagementError):
                connection.run_and_clear_commit_hooks()
            assert bus.history("t") == []
        assert data(bus.history("t")) == [1]

    def test_more_than_one_call_may_hold_is_split(self, monkeypatch):
        monkeypatch.setattr(MODULE, "MAX_BATCH", 3)
        monkeypatch.setattr(MODULE, "MAX_BATCH_BYTES", 10)
        calls = spy(monkeypatch)
        with transaction.atomic():
            for n in (1, 2, 3, 4, 5555555, 666666):
                bus.publish("t", n)
        assert calls == [["t 1", "t 2", "t 3"], ["t 4", "t 5555555"]]
        assert data(bus.history("t")) == [1, 2, 3, 4, 5555555, 666666]


def spy(monkeypatch):
    """Note what goes to the backend in one call, as topic and data."""
    calls, publish_many = [], bus.backend.publish_many

    def noted(items):
        calls.append([f"{item.topic} {item.body.decode()}" for item in items])
        return publish_many(items)

    monkeypatch.setattr(bus.backend, "publish_many", noted)
    return calls


@pytest.mark.django_db(transaction=True)
def test_a_test_may_have_hooks_called_at_once(monkeypatch):
    monkeypatch.setattr(transaction, "on_commit", lambda hook, using=None, robust=False: hook())
    with transaction.atomic():
        bus.publish("t", 1)
    assert [event.data for event in bus.history("t")] == [1]


@pytest.mark.django_db(transaction=True)
def test_each_call_of_a_transaction_stays_whole(monkeypatch):
    sizes = []
    publish_many = bus.backend.publish_many
    monkeypatch.setattr(
        bus.backend,
        "publish_many",
        lambda drafts: sizes.append(len(drafts)) or publish_many(drafts),
    )
    with transaction.atomic():
        for _ in range(2):
            bus.publish_many([("t", n) for n in range(6000)])
        bus.publish("t", "last")
    assert sizes == [6000, 6001]


def test_an_unknown_database_is_refused(run):
    with pytest.raises(ConnectionDoesNotExist):
        bus.publish("t", 1, using="nope")
    with pytest.raises(ConnectionDoesNotExist):
        run(bus.apublish("t", 1, using="nope"))
    assert bus.history("t") == []


@pytest.mark.django_db
def test_hooks_that_a_test_captures_publish(django_capture_on_commit_callbacks):
    bus.publish("t", 1)
    with django_capture_on_commit_callbacks(execute=True) as callbacks:
        bus.publish("t", 2)
        bus.publish("t", 3)
    assert len(callbacks) == 2
    assert data(bus.history("t")) == [2, 3]
    with django_capture_on_commit_callbacks(execute=True):
        bus.publish("t", 4)
    assert data(bus.history("t")) == [2, 3, 4]


@pytest.mark.django_db
def test_a_captured_hook_sends_what_its_own_call_has_published(django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks() as before:
        transaction.on_commit(lambda: None)
        bus.publish("t", 1)
        bus.publish_many([("t", 2), ("t", 3)])
    with django_capture_on_commit_callbacks(execute=True) as after:
        bus.publish("t", 4)
    bus.publish("t", 5)
    assert (len(before), len(after)) == (3, 1)
    assert data(bus.history("t")) == [4]
    before[2]()
    before[2]()
    assert data(bus.history("t")) == [4, 2, 3]
    before[1]()
    assert data(bus.history("t")) == [4, 2, 3, 1]


@pytest.mark.django_db
def test_a_test_may_run_the_hooks_of_its_own_transaction(monkeypatch):
    def fail():
        raise ZeroDivisionError

    calls = spy(monkeypatch)
    monkeypatch.setattr(BaseDatabaseWrapper, "validate_no_atomic_block", lambda self: None)
    bus.publish("t", 1)
    bus.publish("t", 2)
    connection.run_and_clear_commit_hooks()
    assert calls == [["t 1", "t 2"]]
    transaction.on_commit(fail)
    bus.publish("t", 3)
    bus.publish("t", 4)
    with pytest.raises(ZeroDivisionError):
        connection.run_and_clear_commit_hooks()
    assert calls[1:] == [["t 3", "t 4"]]


def test_publish_many():
    events = bus.publish_many([("t", 1), ("u", "text", "name"), ["t", {"n": 2}]])
    assert [(e.topic, e.data, e.event) for e in events] == [
        ("t", 1, None), ("u", "text", "name"), ("t", {"n": 2}, None),
    ]  # fmt: skip
    assert bus.history("t") == [events[0], events[2]]
    assert bus.publish_many([]) == []


def test_apublish_many(run):
    async def main():
        events = await bus.apublish_many(("t", n) for n in range(3))
        assert await bus.ahistory("t") == events
        assert await bus.apublish_many([]) == []

    run(main())


@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        (("a b", 1), InvalidTopic, "event 1: 'a b' is not a topic"),
        (("t", object()), InvalidEvent, "event 1: data for topic 't'"),
        (("t", 1, ""), InvalidEvent, "event 1: event: a name has 1 to 255"),
        (("t", "x" * 101), EventTooLarge, "event 1: data for topic 't' is 101 bytes"),
        (("t",), InvalidEvent, r"event 1: expected \(topic, data\) or"),
        ("ab", InvalidEvent, "event 1: expected"),
    ],
)
def test_one_bad_event_refuses_all(configure, bad, error, text):
    configure(MAX_EVENT_SIZE=100)
    with pytest.raises(error, match=text):
        bus.publish_many([("t", 1), bad, ("t", 2)])
    assert bus.history("t") == []


def test_more_than_a_call_may_hold_is_refused(monkeypatch):
    monkeypatch.setattr(MODULE, "MAX_BATCH", 3)
    monkeypatch.setattr(MODULE, "MAX_BATCH_BYTES", 10)
    with pytest.raises(InvalidEvent, match="4 events are too many for one call: 3 fit"):
        bus.publish_many([("t", n) for n in range(4)])
    with pytest.raises(EventTooLarge, match="12 bytes of data are too many for one call: 10 fit"):
        bus.publish_many([("t", "x" * 6), ("t", "x" * 6)])
    assert bus.history("t") == []
    assert len(bus.publish_many([("t", "x" * 20)])) == 1


def test_an_idempotency_key_makes_a_repetition_harmless(run):
    first = bus.publish("t", 1, idempotency_key="order-7")
    assert bus.publish("t", 1, idempotency_key="order-7") == first
    assert bus.publish("other", 2, idempotency_key="order-7") == first
    assert run(bus.apublish("t", 1, idempotency_key="order-7")) == first
    assert bus.history("t") == [first]
    assert bus.history("other") == []


@pytest.mark.parametrize("key", ["", "x" * 256, 7, b"key", "a\nb", "a\0b", "\ud800"])
def test_a_bad_idempotency_key_is_refused(key):
    with pytest.raises(InvalidEvent, match="^idempotency_key: "):
        bus.publish("t", 1, idempotency_key=key)


def test_a_backend_that_keeps_no_keys_refuses_them(monkeypatch):
    monkeypatch.setattr(type(bus.backend), "keeps_keys", False)
    with pytest.raises(InvalidEvent, match="idempotency_key: MemoryBackend does not keep keys"):
        bus.publish("t", 1, idempotency_key="key")
