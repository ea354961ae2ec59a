"""The switchboard by itself: snapshots and records in, what streams are told out."""

from __future__ import annotations

import dataclasses

import pytest

from flosse_bus.backends.base import Snapshot, TopicHistory
from flosse_bus.conf import load
from flosse_bus.cursor import Cursor
from flosse_bus.events import Record
from flosse_bus.notices import Notices
from flosse_bus.subscription import Subscription
from flosse_bus.switchboard import Switchboard
from tests.hubs import Flags, all_of, brief

NOW = 4e9  # nothing here is old, unless a test says so


def record(topic, position, previous=0, *, epoch="e1", at=NOW):
    return Record(
        topic=topic, event=None, body=b"%d" % position, text=False, epoch=epoch,
        position=position, previous=previous, published_at=at,
    )  # fmt: skip


def kept(*records, evicted=0):
    return TopicHistory(records=records, evicted=evicted)


def log(tail, topics=None, epoch="e1", **rest):
    return Snapshot(tail=Cursor(epoch, tail), topics=topics or {}, **rest)


class Board(Switchboard):
    def __init__(self, **settings):
        config = dataclasses.replace(load("default"), **settings)
        super().__init__(config, Notices("default"))

    def follow(self, *names, snapshot=None):
        self.install(names, snapshot or log(self.position, epoch=self.epoch), [])

    def stream(self, *names, after=None, tail=None, signal=None):
        one = Subscription(
            self, names, signal=signal or Flags(), max_pending=100, max_bytes=1 << 20,
            heartbeat=None,
        )  # fmt: skip
        self.register(one)
        self.place(one, after, tail or self.tail)
        return one

    def drop(self):
        self.drop_idle(float("inf"))
        self.drop_dead(NOW)


@pytest.fixture
def board():
    board = Board(history_ttl=3600.0)
    board.start(log(0))
    return board


@pytest.mark.parametrize("name", ["a", "*"])
def test_a_topic_that_is_dropped_while_a_repair_reads_does_not_come_back_unheard(board, name):
    board.follow(name)
    board.drop()  # while the repair reads
    board.repair(log(1, {"a": kept(record("a", 1))}))
    # What is published now is not heard here, so a stream that resumes needs it from the log.
    board.advance(Cursor("e1", 3))
    board.follow("a", snapshot=log(3, {"a": kept(record("a", 1), record("a", 3, 1))}))
    assert brief(all_of(board.stream("a", after="e1-0"))) == [("resumed", "0"), 1, 3]


@pytest.mark.parametrize("after", ["e1-9", None])
def test_a_stream_ahead_of_its_hub_is_reset_when_the_log_goes_back_behind_it(board, after):
    board.follow("a")
    board.advance(Cursor("e1", 5))
    stream = board.stream("a", after=after, tail=Cursor("e1", 9))
    assert brief(all_of(stream)) == [("resumed" if after else "open", "9")]
    # The hub has heard up to 5, which the log still has; 8 and 9 are given anew.
    board.repair(log(8, {"a": kept(record("a", 8, epoch="e2"))}, "e2", ancestors={"e1": 7}))
    assert brief(all_of(stream)) == ["unknown:a"]
    assert stream.cursor == Cursor("e2", 8)
    board.dispatch([record("a", 9, 8, epoch="e2")])
    assert brief(all_of(stream)) == [9]


def test_a_stream_ahead_of_its_hub_that_the_log_still_has_goes_on(board):
    board.follow("a")
    board.advance(Cursor("e1", 5))
    stream = board.stream("a", after="e1-7", tail=Cursor("e1", 9))
    all_of(stream)
    old, new = record("a", 6), record("a", 8, 6, epoch="e2")
    board.repair(log(8, {"a": kept(old, new)}, "e2", ancestors={"e1": 7}))
    assert brief(all_of(stream)) == [8]


def test_a_pattern_knows_after_a_rollback_what_it_had_lost_before(board):
    board.follow("c.*")
    board.dispatch([record("c.1", 3, at=0.0), record("c.1", 9, 3, at=0.0)])
    board.drop_dead(NOW)  # both have expired
    # 9 is undone; 3 is lost as before.
    board.repair(log(7, {"c.1": kept(evicted=3)}, "e2", ancestors={"e1": 7}))
    assert brief(all_of(board.stream("c.*", after="e1-2"))) == [("open", "2"), "expired:c.*"]
    assert brief(all_of(board.stream("c.*", after="e1-3"))) == [("resumed", "3")]


def test_after_a_rollback_a_pattern_hands_out_what_is_new_in_topics_that_it_had_dropped(board):
    board.follow("c.*", "*.1")
    board.dispatch([record("c.1", 3, at=0.0), record("d.2", 4)])
    board.drop_dead(NOW)
    board.dispatch([record("c.2", 9, at=0.0)])
    stream = board.stream("*.1", after=None)
    all_of(stream)
    board.drop_dead(NOW)
    new = record("c.1", 8, 3, epoch="e2")
    board.repair(log(8, {"c.1": kept(new, evicted=3)}, "e2", ancestors={"e1": 7}))
    assert brief(all_of(stream)) == [8]


def test_a_queued_record_is_not_delivered_again_when_its_channel_has_been_dropped(board):
    board.follow("c.*")
    stream = board.stream("c.*")
    all_of(stream)
    first, queued = record("c.1", 1, at=0.0), record("c.1", 2, 1, at=0.0)
    board.repair(
        log(2, {"c.1": kept(first, queued)})
    )  # it reads what the listener has yet to yield
    assert brief(all_of(stream)) == [1, 2]
    board.drop_dead(NOW)
    board.dispatch([queued, record("c.1", 3, 2)])
    assert brief(all_of(stream)) == [3]


def test_a_repair_does_not_deliver_again_what_expired_here_before_it_did_in_the_log(board):
    board.follow("c.*")
    stream = board.stream("c.*")
    first = record("c.1", 1, at=0.0)
    board.dispatch([first])
    assert brief(all_of(stream)) == [("open", "0"), 1]
    board.drop_dead(NOW)
    board.repair(log(2, {"c.1": kept(first, record("c.1", 2, 1))}))
    assert brief(all_of(stream)) == [2]


def test_what_a_pattern_has_lost_stays_lost_when_one_of_its_topics_is_followed_too():
    board = Board(history_ttl=None, history_size=2)
    board.start(log(0))
    board.follow("c.*")
    stream = board.stream("c.*")
    all_of(stream)
    stream.interrupt()  # it reads from the ring next
    snapshot = log(2, {"c.1": kept(record("c.1", 1), record("c.1", 2, 1))})
    early = [record("c.1", n, n - 1) for n in range(1, 7)]
    board.dispatch(early)
    board.install(["c.1"], snapshot, early)
    assert brief(all_of(stream)) == ["overflow:c.*"]
    assert brief(all_of(board.stream("c.1", after="e1-3"))) == [("open", "3"), "expired:c.1"]


class Broken(Flags):
    """A reader that cannot frame one of the messages."""

    def offer(self, messages):
        for message in messages:
            if message.position == 1:
                raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        return False


def test_a_message_that_one_stream_cannot_take_reaches_all_others(board):
    board.follow("a")
    streams = [board.stream("a", signal=signal) for signal in (Flags(), Broken(), Flags())]
    for stream in streams:
        all_of(stream)
    board.dispatch([record("a", 1)])
    board.dispatch([record("a", 2, 1)])
    assert [brief(all_of(one)) for one in (streams[0], streams[2])] == [[1, 2], [1, 2]]
    assert board.position == 2
    assert streams[1].closed == "error"
