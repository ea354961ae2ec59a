"""The switchboard: which topics are followed, their rings, and who gets what.

Plain code without I/O, called under :attr:`Switchboard.lock`, so that registration and snapshot are
one step. The invariant: everything in the log up to ``position`` has been handed out to the
subscriptions here, in order, and no ring holds anything beyond it. So whatever a reader takes from
the rings comes before whatever is handed out to it later, over all its topics.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from .backends.base import Snapshot, TopicHistory
from .conf import BusConfig
from .cursor import EARLIEST, Cursor, descends
from .events import Record
from .exceptions import InvalidCursor
from .message import Message
from .notices import Notices
from .ring import Ring
from .subscription import Subscription
from .topics import compile_pattern, is_pattern
from .wire import jittered

logger = logging.getLogger("flosse_bus")


class Channel:
    """A topic that somebody here listens to."""

    __slots__ = ("name", "ring", "subscriptions")

    def __init__(self, name: str, ring: Ring[Message]) -> None:
        self.name = name
        self.ring = ring
        self.subscriptions: dict[Subscription, None] = {}

    @property
    def evicted(self) -> int:
        return self.ring.evicted


class Interest:
    """A topic or pattern that is listened to, with who wants it.

    ``evicted`` is the highest position lost by covered topics that have no channel any more.
    """

    __slots__ = ("evicted", "idle_since", "name", "pattern", "regex", "subscriptions")

    def __init__(self, name: str) -> None:
        self.name = name
        self.pattern = is_pattern(name)
        self.regex = compile_pattern(name)
        self.evicted = 0
        self.subscriptions: dict[Subscription, None] = {}
        self.idle_since = time.monotonic()

    def covers(self, topic: str) -> bool:
        return self.regex.fullmatch(topic) is not None


class Switchboard:
    """The state of one :class:`~flosse_bus.hub.Hub`. Every method wants the lock held."""

    def __init__(self, config: BusConfig, notices: Notices) -> None:
        self._config = config
        self.notices = notices
        self._channels: dict[str, Channel] = {}
        self._interests: dict[str, Interest] = {}
        self._patterns: list[Interest] = []
        self.lock = threading.Lock()
        self.subscriptions: dict[Subscription, None] = {}
        self.epoch = ""
        self.position = 0
        self.ancestors: Mapping[str, int] = {}
        self.counters: Counter[str] = Counter()
        self._beaten = 0.0

    @property
    def tail(self) -> Cursor:
        return Cursor(self.epoch, self.position)

    def holds(self, cursor: Cursor) -> bool:
        """Is this a place in the log that has been handed out?"""
        return descends(self.tail, self.ancestors, cursor)

    def knows(self, epoch: str) -> bool:
        return epoch == self.epoch or epoch in self.ancestors

    @property
    def names(self) -> list[str]:
        """The topics and patterns that are followed."""
        return list(self._interests)

    def follows(self, name: str) -> bool:
        return name in self._interests

    @property
    def pending(self) -> int:
        """Events that wait in the stream that has the most of them waiting. Without the lock."""
        return max((subscription.waiting for subscription in [*self.subscriptions]), default=0)

    # Subscriptions

    def register(self, subscription: Subscription) -> None:
        """Connect a subscription with its topics, all of which are followed."""
        self.subscriptions[subscription] = None
        for name in subscription.names:
            interest = self._interests[name]
            interest.subscriptions[subscription] = None
            subscription.interests.append(interest)
            if interest.pattern:
                for channel in self._channels.values():
                    if interest.covers(channel.name):
                        _join(channel, subscription)
            else:
                _join(self._channels[name], subscription)

    def place(self, subscription: Subscription, after: str | None, tail: Cursor) -> None:
        """Let a subscription begin where ``after`` says; ``tail`` is the log's at this time."""
        now = time.time()
        for channel in subscription.channels:
            channel.ring.expire(now)
        retry = jittered(self._config.retry)
        if after is None:
            subscription.open_at(tail.position)
            subscription.greet(str(tail), resumed=False, retry=retry)
        elif after == EARLIEST:
            subscription.open_at(0)
            subscription.skip_lost()
            kept = any(len(channel.ring) for channel in subscription.channels)
            # A client that is cut off before the first event must ask for all of it again.
            id = EARLIEST if kept or subscription.resets else str(self.tail)
            subscription.greet(id, resumed=False, retry=retry)
        else:
            cursor = parse_cursor(after)
            self._place_after(subscription, cursor, tail)
            # A client must never hold an id beyond a loss that it has not been told of: where a
            # reset follows, its own position stands in the opening, too.
            subscription.greet(
                None if cursor is None else after, resumed=not subscription.resets, retry=retry
            )

    def _place_after(self, subscription: Subscription, after: Cursor | None, tail: Cursor) -> None:
        if after is None or not descends(tail, self.ancestors, after):
            subscription.reset(subscription.names, "unknown", tail.position)
            return
        subscription.open_at(after.position)
        subscription.report_lost("expired")

    def take_out(self, subscription: Subscription) -> None:
        """Disconnect a subscription. Again is harmless."""
        if subscription not in self.subscriptions:
            return
        del self.subscriptions[subscription]
        now = time.monotonic()
        for interest in subscription.interests:
            del interest.subscriptions[subscription]
            interest.idle_since = now
        for channel in subscription.channels:
            del channel.subscriptions[subscription]
        subscription.channels.clear()

    def beat(self, now: float) -> None:
        before = self._beaten or now
        for subscription in self.subscriptions:
            subscription.beat(now, before)
        self._beaten = now

    def end_all(self, reason: str) -> None:
        for subscription in self.subscriptions:
            subscription.end(reason)

    # Events

    def start(self, snapshot: Snapshot) -> None:
        """Begin at the end of the log: nobody here has asked for what was before."""
        self._adopt(snapshot)
        self.position = snapshot.tail.position

    def _adopt(self, snapshot: Snapshot) -> None:
        self.epoch, self.ancestors = snapshot.tail.epoch, snapshot.ancestors

    def install(self, names: Sequence[str], snapshot: Snapshot, early: list[Record]) -> None:
        """Follow ``names`` from a snapshot of them, and from what has come since it was asked for.

        The snapshot's tail must have been handed out.
        """
        for topic, history in snapshot.topics.items():
            channel = self._channels.get(topic)
            if channel is None:  # its interest follows below
                self._add_channel(topic).ring = self._ring_of(topic, history)
            elif history.evicted < channel.evicted:  # a pattern's ring may know less
                channel.ring = self._ring_of(topic, history)
                # Not from the old ring, which may have lost some of what has come since.
                self._catch_up(channel, early)
        for name in names:
            interest = self._interests[name] = Interest(name)
            if interest.pattern:
                interest.evicted = snapshot.forgotten_of(name, self._config)
                self._patterns.append(interest)
            elif name not in self._channels:
                self._add_channel(name, lost=snapshot.forgotten_of(name, self._config))
        self._hand_out(early)

    def _catch_up(self, channel: Channel, early: list[Record]) -> None:
        """Add to a topic's ring what has been handed out since its snapshot was asked for."""
        ring = channel.ring
        for record in early:
            if (
                record.topic == channel.name
                and record.epoch == self.epoch
                and record.position > ring.head
            ):
                if record.previous > ring.head:
                    ring.lose(record.position)
                else:
                    ring.append(Message(record))

    def _add_channel(self, topic: str, lost: int | None = None) -> Channel:
        """Begin to keep a topic, of which nothing after ``lost`` has been published before."""
        channel = self._channels[topic] = Channel(topic, self._new_ring(topic))
        covering = [interest for interest in self._patterns if interest.covers(topic)]
        bounds = [interest.evicted for interest in covering]
        if lost is not None:
            bounds.append(lost)
        channel.ring.lose(min(bounds, default=0))
        for interest in covering:
            for subscription in interest.subscriptions:
                _join(channel, subscription)
        return channel

    def _channel_of(self, topic: str, lost: int | None = None) -> Channel | None:
        """Return a topic's channel, made now if need be, or ``None``: nobody here follows it.

        A channel that nobody hears would look like one of which nothing has come.
        """
        channel = self._channels.get(topic)
        if channel is None and (
            topic in self._interests or any(interest.covers(topic) for interest in self._patterns)
        ):
            return self._add_channel(topic, lost)
        return channel

    def _new_ring(self, topic: str) -> Ring[Message]:
        kept = self._config.history_of(topic)
        return Ring(size=kept.size, ttl=kept.ttl, max_bytes=kept.max_bytes)

    def _ring_of(self, topic: str, history: TopicHistory, end: int | None = None) -> Ring[Message]:
        """Return a ring with what is kept of a topic, up to ``end`` if that is said."""
        ring = self._new_ring(topic)
        ring.lose(history.evicted if end is None else min(history.evicted, end))
        for record in history.records:
            if end is None or record.position <= end:
                ring.append(Message(record))
        return ring

    def dispatch(self, records: list[Record]) -> list[Record]:
        """Hand out a batch, in order of position; return what of it had not been before."""
        tail = records[-1].cursor
        if records[0].position <= self.position:
            # A repair has handed these out while they were under way.
            records = [record for record in records if record.position > self.position]
        self._hand_out(records)
        self.advance(tail)
        return records

    def advance(self, cursor: Cursor) -> None:
        """Everything up to ``cursor`` has been handed out."""
        if cursor.epoch == self.epoch:
            self.position = max(self.position, cursor.position)

    def repair(self, snapshot: Snapshot) -> None:
        """Bring rings and subscriptions up to a snapshot of all that is followed."""
        if snapshot.tail.epoch != self.epoch or snapshot.tail.position < self.position:
            self._roll_back(snapshot)
        self._adopt(snapshot)
        self._merge(snapshot)

    def tell_losses(self, records: Iterable[Record]) -> bool:
        """Tell streams what a batch shows to be lost, before they have anything of it.

        Else a stream would have an id beyond the loss, by another topic, before it is told of it,
        and if it is cut there it would resume after it. True: there is such a loss, and the whole
        batch must be handed out before the lock is released.
        """
        torn = False
        first: dict[str, Record] = {}
        for record in records:
            first.setdefault(record.topic, record)
        for topic, record in first.items():
            channel = self._channels.get(topic)
            if channel is None or record.epoch != self.epoch:
                continue
            # At or below self.position readers may be past it already: see _hand_out.
            if record.previous > max(channel.ring.head, self.position):
                torn = True
                channel.ring.lose(record.previous)
                for subscription in channel.subscriptions:
                    if subscription.position < record.previous:  # others have it from elsewhere
                        subscription.pass_over([channel], "overflow")
        return torn

    def _hand_out(self, records: Iterable[Record]) -> None:
        # Neighbours of one topic are handed to a subscription at once: in a burst that is most of
        # what it costs.
        run: list[Message] = []
        into: Channel | None = None
        for record in records:
            if record.epoch != self.epoch and not self.holds(record.cursor):
                continue
            channel = self._channels.get(record.topic)
            if channel is None:
                channel = self._channel_of(record.topic, lost=record.previous or None)
                if channel is None:
                    continue
            if channel is not into:
                _push(into, run)
                into, run = channel, []
            ring = channel.ring
            if record.position <= ring.head:
                continue
            if record.previous > ring.head:
                _push(into, run)
                run = []
                # The listener has missed one. Readers may be past it already, by other topics: up
                # to this very record, which must be lost with it so that their ids tell.
                ring.lose(record.position)
                for subscription in channel.subscriptions:
                    if subscription.position < record.position:  # others have it from elsewhere
                        subscription.give_up([channel], "overflow")
                continue
            message = Message(record)
            ring.append(message)
            run.append(message)
        _push(into, run)

    def _roll_back(self, snapshot: Snapshot) -> None:
        """The log has gone on in another epoch: be where both logs are the same, and tell whoever
        has had anything beyond it.

        That is up to ``end``, or nowhere. What the log has after it is for :meth:`_merge`.
        """
        end = snapshot.ancestors.get(self.epoch, -1)
        # Also who came with more than was handed out here: nobody knows what of it was theirs.
        lost = [s for s in self.subscriptions if not s.stands_before(end)]
        hit = {channel.name for channel in self._channels.values() if channel.ring.head > end}
        for interest in self._patterns:
            if interest.evicted > end:
                forgotten = snapshot.forgotten_of(interest.name, self._config)
                interest.evicted = max(0, min(forgotten, end))
                # It counted for topics without a channel, so those that are there get one again.
                dropped = (topic for topic in snapshot.topics if topic not in self._channels)
                hit.update(filter(interest.covers, dropped))
        self._adopt(snapshot)
        self.position = max(0, min(self.position, end))
        for topic in hit:
            channel = self._channel_of(topic)
            assert channel is not None
            history = snapshot.topics.get(topic)
            if history is None:
                evicted = snapshot.forgotten_of(topic, self._config)
                history = TopicHistory(records=(), evicted=evicted)
            channel.ring = self._ring_of(topic, history, end)
        for subscription in self.subscriptions:
            subscription.step_back(end)
        for subscription in lost:
            subscription.reset(subscription.names, "unknown", snapshot.tail.position, log=False)
        if lost:
            logger.warning(
                "bus %r has lost history: %d streams reset", self._config.alias, len(lost)
            )

    def _merge(self, snapshot: Snapshot) -> None:
        # Whatever is not after self.position has been handed out here, kept or not.
        for topic in snapshot.topics:
            self._channel_of(topic)
        for name, channel in self._channels.items():
            history = snapshot.topics.get(name)
            if history is not None:
                evicted = history.evicted
            else:
                evicted = snapshot.forgotten_of(name, self._config)
            if evicted > max(channel.ring.head, self.position):
                _lose(channel, evicted)
        for interest in self._patterns:
            lost = snapshot.forgotten_of(interest.name, self._config)
            if lost > max(interest.evicted, self.position):
                interest.evicted = lost
                for subscription in interest.subscriptions:
                    subscription.interrupt()
        missed = [
            record
            for history in snapshot.topics.values()
            for record in history.records
            if record.position > self.position
        ]
        missed.sort(key=lambda record: record.position)
        self._hand_out(missed)
        self.position = max(self.position, snapshot.tail.position)

    # Housekeeping

    def drop_idle(self, before: float) -> None:
        """Stop following what has had no subscription since ``before``."""
        idle = [
            interest.name
            for interest in self._interests.values()
            if not interest.subscriptions and interest.idle_since <= before
        ]
        for name in idle:
            del self._interests[name]
        self._patterns = [i for i in self._interests.values() if i.pattern]

    def drop_dead(self, now: float) -> None:
        """Forget topics that nobody follows, or of which nothing is kept."""
        for channel in list(self._channels.values()):
            if channel.name in self._interests:
                continue
            covering = [interest for interest in self._patterns if interest.covers(channel.name)]
            channel.ring.expire(now)
            if covering and len(channel.ring):
                continue
            del self._channels[channel.name]
            for subscription in channel.subscriptions:
                subscription.drop_channel(channel, covering)
            for interest in covering:
                interest.evicted = max(interest.evicted, channel.ring.evicted)


def _join(channel: Channel, subscription: Subscription) -> None:
    channel.subscriptions[subscription] = None
    subscription.channels[channel] = None


def _push(channel: Channel | None, run: list[Message]) -> None:
    if channel is not None and run:
        messages = tuple(run)
        size = sum([message.size for message in run])
        for subscription in channel.subscriptions:
            subscription.push(messages, size)


def _lose(channel: Channel, position: int) -> None:
    channel.ring.lose(position)
    for subscription in channel.subscriptions:
        subscription.interrupt()


def parse_cursor(text: str) -> Cursor | None:
    try:
        return Cursor.parse(text)
    except InvalidCursor:
        return None
