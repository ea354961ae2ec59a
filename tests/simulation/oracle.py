"""What a client must be told, by a log that forgets nothing.

Everything of its topics once and in order, or a reset; and no reset where nothing was lost.
"""

from __future__ import annotations

import functools

from flosse_bus.cursor import EARLIEST, Cursor
from flosse_bus.exceptions import InvalidCursor
from flosse_bus.message import Mark, Message, Opening, Reset
from flosse_bus.topics import compile_pattern


class Find(AssertionError):
    """The hub has broken its promise."""


@functools.cache
def covers(name, topic):
    return compile_pattern(name).fullmatch(topic) is not None


class Client:
    """What an ``EventSource`` keeps, and what it can say it has had.

    ``at``: everything of its topics up to here is received or excused. ``tainted``: it has had, or
    begun after, something that has been undone since, so that only a reset can help.
    """

    def __init__(self, broker, names, after):
        self.broker = broker
        self.names = names
        self.last_id = after
        self.received = set()
        self.excused = {}  # by topic: events up to this number need not come
        self.tainted = False
        self.since = 0  # which epoch its hub knew when it connected, or was reset
        self.owed = False  # the opening has promised a reset
        self.at = None
        self.resets = 0
        self.asks(after)

    def asks(self, after):
        """It connects, with this."""
        self.owed = False
        if after is None:
            self.at, self.tainted = None, False
            return
        if after == EARLIEST:
            self.at, self.tainted = 0, False
            return
        self._claims(after, check=False)

    def wants(self, topic):
        return any(covers(name, topic) for name in self.names)

    # What happens to the log

    def goes_back(self, end, undone):
        """All facts beyond ``end`` have been undone."""
        if self.at is None:
            return
        if self.at > end:
            if any(self.wants(fact.topic) and fact.position <= self.at for fact in undone):
                self.tainted = True
            self.at = end

    # What it is told

    def receive(self, items):
        for one in items:
            if isinstance(one, Message):
                self._message(one)
            elif isinstance(one, Reset):
                self._reset(one)
            elif isinstance(one, Opening):
                self._opening(one)
            else:
                assert isinstance(one, Mark)
                self._claims(one.id)

    def _opening(self, one):
        if one.resumed != (self.last_id not in (None, EARLIEST)):
            self.owed = self.last_id is not None and self.last_id != EARLIEST
            if one.resumed:
                raise Find("resumed, although it came with nothing")
        if one.resumed and one.id != self.last_id:
            raise Find(f"resumed at {one.id}, but it came with {self.last_id}")
        if one.resumed and self.tainted and self.since == len(self.broker.undone):
            raise Find("resumed, although what it has had is undone")
        if one.id is None or one.id == self.last_id:
            return  # its own
        if self.last_id is None:
            self._begins(one.id)
        else:
            self._claims(one.id)

    def _begins(self, id):
        self._claims(id, check=False)

    def _message(self, one):
        number, topic = int(one.record.body), one.record.topic
        if not self.wants(topic):
            raise Find(f"{topic} was not asked for")
        if number in self.received:
            raise Find(f"event {number} again")
        self.received.add(number)
        fact = self.broker.all[number]
        self.last_id = str(one.record.cursor)
        if fact not in self.broker.facts:
            self.tainted = True
            return
        if self.tainted:
            if one.record.epoch == self.broker.state.epoch:
                raise Find(f"event {number} of {topic} without a word that others are undone")
            return
        if self.at is not None and fact.position <= self.at:
            raise Find(f"event {number} at {fact.position} after {self.at}")
        self._complete(fact.position - 1)
        self.at = fact.position

    def _reset(self, one):
        self.owed = False
        self.resets += 1
        if not set(one.topics) <= set(self.names):
            raise Find(f"reset of {one.topics}, which it has not asked for")
        if one.reason == "unknown":
            if not self._may_be_unknown():
                raise Find(f"reset ({one.reason}) of {one.topics} at {self.last_id} for nothing")
        elif not self._may_have_lost(one):
            raise Find(
                f"reset ({one.reason}) of {one.topics} after {self.at}, of which nothing is lost"
            )
        for topic in {fact.topic for fact in self.broker.all.values()}:
            if any(covers(name, topic) for name in one.topics):
                self.excused[topic] = len(self.broker.all)
        if set(one.topics) == set(self.names):
            # From here on it has had nothing that could be undone.
            self.tainted = False
            self.at = None
            epoch = one.id.rpartition("-")[0]
            self.since = self.broker.numbers.get(epoch, self.since)
        if one.id == EARLIEST:
            self.last_id, self.at = one.id, 0
        else:
            self._claims(one.id)

    def _may_be_unknown(self):
        return self.tainted or self.disturbed or self._place(self.last_id) is None

    @property
    def disturbed(self):
        """Has something of its topics been undone that its hub may have handed out? Or has the log
        no memory of an epoch that its hub has known?
        """
        broker = self.broker
        gone = [topic for undone in broker.undone[self.since :] for topic in undone]
        epochs = [f"e{number}" for number in range(self.since, len(broker.undone))]
        known = all(epoch in broker.state.ancestors for epoch in epochs)
        return not known or any(map(self.wants, gone))

    def _may_have_lost(self, one):
        at = self.at or 0
        if self.broker.blurred > at:
            return True
        for fact in self.broker.facts:
            if (
                fact.position > at
                and fact.number not in self.received
                and any(covers(name, fact.topic) for name in one.topics)
                and self.broker.may_have_lost(fact)
            ):
                return True
        # Of a log that is gone nobody can say.
        return self.disturbed

    def _place(self, id):
        """Return the position of an id in the log as it is, or ``None``."""
        try:
            cursor = Cursor.parse(id or "")
        except InvalidCursor:
            return None
        state = self.broker.state
        end = state.position if cursor.epoch == state.epoch else state.ancestors.get(cursor.epoch)
        return cursor.position if end is not None and cursor.position <= end else None

    def _claims(self, id, *, check=True):
        """It is told that it has had everything up to here."""
        self.last_id = id
        if id == EARLIEST:
            return
        position = self._place(id)
        if position is None:
            # Beyond what is left of a log: of that it must be told, if it is of its topics.
            try:
                cursor = Cursor.parse(id)
            except InvalidCursor:
                self.at, self.tainted = None, False
                return
            position = self.broker.state.ancestors.get(cursor.epoch)
            if position is None:
                self.at, self.tainted = 0, True
                return
            self.tainted = self.tainted or any(
                position < fact.position <= cursor.position and self.wants(fact.topic)
                for fact in self.broker.logs[cursor.epoch]
            )
        elif self.tainted and id.rpartition("-")[0] == self.broker.state.epoch:
            raise Find(f"stands at {id} without a word that something is undone")
        if self.tainted:
            return
        if check and self.at is not None:
            self._complete(position)
        self.at = position if self.at is None or not check else max(self.at, position)

    def _complete(self, position):
        missing = self._missing(position)
        if missing:
            raise Find(f"passed over in silence: {missing}")

    def _missing(self, position):
        if self.at is None:
            return []
        return [
            fact
            for fact in self.broker.facts
            if self.at < fact.position <= position
            and fact.number not in self.received
            and fact.number > self.excused.get(fact.topic, 0)
            and self.wants(fact.topic)
        ]

    def settled(self):
        """Nothing more will come."""
        if self.tainted:
            raise Find(f"never told that what it has had is undone ({self.last_id})")
        if self.owed:
            raise Find("the opening has promised a reset that never came")
        missing = self._missing(self.broker.state.position)
        if missing:
            raise Find(f"never delivered: {missing}")
