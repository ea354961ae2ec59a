"""Mistakes that the hub once made, to be made again: what does not find them proves little."""

from __future__ import annotations

import contextlib
import dataclasses
from unittest import mock

from flosse_bus.feed import Feed
from flosse_bus.subscription import Subscription
from flosse_bus.switchboard import Switchboard

merge, roll_back, stands_before = (
    Switchboard._merge, Switchboard._roll_back, Subscription.stands_before
)  # fmt: skip


def merge_what_was_dropped(self, snapshot):
    """A topic that is dropped while a repair reads comes back, and nobody hears it."""
    for topic in snapshot.topics:
        if topic not in self._channels:
            self._add_channel(topic)
    merge(self, snapshot)


def repair_if_behind(self, snapshot):
    """A stream that is ahead of its hub survives a rollback that the hub itself does."""
    if not snapshot.holds(self.tail):
        self._roll_back(snapshot)
    self._adopt(snapshot)
    self._merge(snapshot)


def stands_before_by_rings(self, end):
    position, self.position = self.position, 0
    try:
        return stands_before(self, end)
    finally:
        self.position = position


def forget_at_rollback(self, snapshot):
    """A pattern forgets what topics without a channel had lost."""
    topics = {name: kept for name, kept in snapshot.topics.items() if name in self._channels}
    roll_back(self, dataclasses.replace(snapshot, topics=topics))


def dispatch_again(self, records):
    """What a repair has handed out is handed out again, where its channel was dropped meanwhile."""
    self._hand_out(records)
    self.advance(records[-1].cursor)


async def watch_for_ever(self, linger=None):
    """The names of a cancelled opening stay with the listener."""
    self._watched &= set(self._board.names)
    await sweep(self, linger)


sweep = Feed.sweep

MISTAKES = {
    "dropped topics come back": [(Switchboard, "_merge", merge_what_was_dropped)],
    "streams ahead stay": [
        (Switchboard, "repair", repair_if_behind),
        (Subscription, "stands_before", stands_before_by_rings),
    ],
    "patterns forget": [(Switchboard, "_roll_back", forget_at_rollback)],
    "records come twice": [(Switchboard, "dispatch", dispatch_again)],
    "cancelled openings are watched": [(Feed, "sweep", watch_for_ever)],
}


@contextlib.contextmanager
def made(name):
    with contextlib.ExitStack() as stack:
        for owner, attribute, function in MISTAKES[name]:
            stack.enter_context(mock.patch.object(owner, attribute, function))
        yield
