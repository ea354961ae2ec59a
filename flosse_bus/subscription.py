"""One open stream: its topics, where it stands, and a bounded number of pending messages.

The invariant, held under the switchboard's lock: while ``_live``, every message of the topics after
``position`` is pending. While not live nothing is pushed; once the pending ones are taken, the
next page is read from the rings at ``position``. Replay after connecting, catching up after an
overflow and repair after an outage are this one mechanism, so they cannot disagree.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol, cast

from .cursor import EARLIEST, Cursor
from .message import Mark, Message, Opening, Reset

if TYPE_CHECKING:
    from .switchboard import Channel, Interest, Switchboard

logger = logging.getLogger("flosse_bus")

#: Bytes that one take returns at most, unless a single message is larger.
MAX_TAKE = 65_536

Item = Message | Reset | Mark | Opening


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loss:
    """A reset in line. Where the client resumes after it is known only when its turn comes.

    Unless ``id`` says so.
    """

    topics: tuple[str, ...]
    reason: str
    at: float
    id: str | None = None
    size: int = 0


class Signal(Protocol):
    """What wakes the reader: an ``asyncio.Event`` or a ``threading.Event``.

    One with a method ``offer(messages: tuple[Message, ...]) -> bool`` is asked first, under the
    switchboard's lock, when all that there is are these messages. It may take them on the spot.
    """

    def set(self) -> None: ...


class Subscription:
    """Made and closed by :class:`~flosse_bus.hub.Hub`; its reader calls :meth:`take`."""

    __slots__ = (
        "_beat_due",
        "_board",
        "_heartbeat",
        "_live",
        "_max_bytes",
        "_max_pending",
        "_offer",
        "_opening",
        "_pending",
        "_pending_bytes",
        "_signal",
        "_silent_since",
        "_skip",
        "_specials",
        "_taken",
        "channels",
        "closed",
        "delivered",
        "interests",
        "names",
        "position",
        "resets",
    )

    def __init__(
        self,
        board: Switchboard,
        names: tuple[str, ...],
        *,
        signal: Signal,
        max_pending: int,
        max_bytes: int,
        heartbeat: float | None,
    ) -> None:
        self._board = board
        self._signal = signal
        self._offer: Callable[[tuple[Message, ...]], bool] | None = getattr(signal, "offer", None)
        self._max_pending = max_pending
        self._max_bytes = max_bytes
        self._heartbeat = heartbeat
        self._beat_due = False
        # When the reader was last heard of, as far as the beats can tell.
        self._silent_since = time.monotonic()
        self._taken = False
        self._opening: Opening | None = None
        self._live = False
        # One tuple of messages, shared with all who have been handed the same, or a list.
        self._pending: Sequence[Message | Mark | _Loss] = ()
        self._pending_bytes = 0
        # How many of the pending are no messages.
        self._specials = 0
        # Losses that are no news, because the reader was told or never asked: up to which
        # position each source is passed over until the reader's own position is beyond it.
        self._skip: dict[Channel | Interest, int] = {}
        self.names = names
        #: Everything up to here has been taken, or given up with a reset.
        self.position = 0
        self.channels: dict[Channel, None] = {}
        self.interests: list[Interest] = []
        #: Why the stream has ended, once it has.
        self.closed: str | None = None
        self.delivered = 0
        self.resets = 0

    # For the reader, from any thread.

    def take(self) -> Sequence[Item]:
        """Return what comes next, at most about 64 KiB of it; empty when there is nothing.

        First of all it is the opening; after silence a fresh cursor, for the reader's heartbeat.
        """
        with self._board.lock:
            if self._opening is not None:
                pending = self._take_pending()  # first: the opening says whether this is whole
                return [*self._take_opening(), *pending]
            return self._take_pending()

    def take_opening(self) -> Sequence[Item]:
        """Return the opening, if it has not been taken."""
        with self._board.lock:
            return self._take_opening()

    def _take_opening(self) -> Sequence[Item]:
        if self._opening is None:
            return ()
        opening, self._opening = self._opening, None
        self._taken = True
        return [opening]

    def _take_pending(self) -> Sequence[Item]:
        if not self._pending:
            if not self._live and self.closed is None:
                self._read_page()
            if not self._pending:
                return self._take_heartbeat()
        self._taken = True
        if self._specials or self._pending_bytes > MAX_TAKE:
            return self._take_some()
        # Messages, and not too many: what nearly every take comes to.
        taken = cast("Sequence[Message]", self._pending)
        self._pending = ()
        self._pending_bytes = 0
        self.position = taken[-1].record.position
        self.delivered += len(taken)
        return taken

    def _take_heartbeat(self) -> Sequence[Item]:
        if not self._beat_due or self._taken:
            return ()
        self._beat_due = False
        self._taken = True
        return [Mark(id=str(self._cursor()))]

    @property
    def more(self) -> bool:
        """May there be something to take?"""
        return bool(self._pending) or not self._live or self._beat_due or bool(self._opening)

    def _take_some(self) -> list[Item]:
        taken: list[Item] = []
        size = 0
        for item in self._pending:
            if taken and size + item.size > MAX_TAKE:
                break
            size += item.size
            if type(item) is Message:
                taken.append(item)
                self.position = item.record.position
                self.delivered += 1
                continue
            self._specials -= 1
            if isinstance(item, _Loss):
                id = item.id or str(Cursor(self._board.epoch, self.position))
                taken.append(Reset(topics=item.topics, reason=item.reason, id=id, at=item.at))
                continue
            taken.append(item)
            if type(item) is Mark and item.position is not None:
                self.position = max(self.position, item.position)
                self._skip.clear()
        self._pending = self._pending[len(taken) :]
        self._pending_bytes -= size
        return taken

    @property
    def waiting(self) -> int:
        """Events that the reader has yet to take: those pending, or those in the rings."""
        if self._live:
            return max(0, len(self._pending) - self._specials)  # without the lock
        with self._board.lock:
            return sum(channel.ring.count(self._skipped(channel)) for channel in self.channels)

    @property
    def cursor(self) -> Cursor:
        """Where a reader of everything taken so far stands."""
        with self._board.lock:
            return self._cursor()

    # For the switchboard, under its lock.

    def open_at(self, position: int) -> None:
        """Stand at ``position``: what the rings hold after it comes first."""
        self.position = position

    def skip_lost(self) -> None:
        """Begin with the oldest that is kept, and say so if something was before it."""
        self._skip = {source: source.evicted for source in self._sources() if source.evicted}
        if self._skip:
            # Cut off after this, the client must ask for all that is kept again.
            self._say(self._names_of(self._skip), "expired", id=EARLIEST)

    def _sources(self) -> tuple[Channel | Interest, ...]:
        return (*self.channels, *self.interests)

    def greet(self, id: str | None, *, resumed: bool, retry: int) -> None:
        """Begin with where to resume, in case the stream is cut off before its first event."""
        self._opening = Opening(id=id, resumed=resumed, retry=retry)

    def _append(self, special: Mark | _Loss) -> None:
        self._pending = [*self._pending, special]
        self._specials += 1

    def push(self, messages: tuple[Message, ...], size: int) -> None:
        """Hand over what has come, in order. ``size`` is that of all together."""
        if self._live:
            if self._pending:
                self._pending = [*self._pending, *messages]
            else:
                if self._offer is not None:
                    try:
                        taken = self._offer(messages)
                    except Exception:  # noqa: BLE001  # because others are handed the same
                        self._fail()
                        return
                    if taken:
                        self._taken = True
                        self.position = messages[-1].record.position
                        self.delivered += len(messages)
                        return
                self._pending = messages
            self._pending_bytes += size
            if len(self._pending) > self._max_pending or self._pending_bytes > self._max_bytes:
                self._overflow()
        self._signal.set()

    def _fail(self) -> None:
        # Closed before anything is said: what cannot be written now may not be passed over.
        self._live = False
        self.end("error")
        logger.exception("stream ended, as it could not be written: %s", ", ".join(self.names))

    def interrupt(self) -> None:
        """Something may be missing after what is pending: look into the rings then."""
        self._live = False
        self._signal.set()

    def reset(
        self, names: tuple[str, ...], reason: str, position: int, *, log: bool = True
    ) -> None:
        """Give up everything up to ``position`` and say so."""
        self._pending = ()
        self._pending_bytes = self._specials = 0
        self._skip.clear()
        self._live = False
        self.position = position
        self._say(names, reason, log=log)

    def stands_before(self, end: int) -> bool:
        """Has the reader had, or will it have of what is pending, nothing beyond ``end``?

        What was handed out here is known by the rings, whatever else a position has passed.
        """
        return (
            end >= 0
            and self.position <= max(end, self._board.position)
            and all(channel.ring.head <= end for channel in self.channels)
            and all(interest.evicted <= end for interest in self.interests)
            and not any(type(item) is Mark and item.beyond(end) for item in self._pending)
            and not (self._opening is not None and self._opening.beyond(end))
        )

    def step_back(self, end: int) -> None:
        """Positions beyond this one are given anew, and the reader has had none of them."""
        position = max(0, end)
        self.position = min(self.position, position)
        self._skip = {source: min(skip, position) for source, skip in self._skip.items()}

    def report_lost(self, reason: str) -> None:
        """Say so if the rings have lost anything after ``position``."""
        lost = [
            source
            for source in self._sources()
            if source.evicted > max(self.position, self._skip.get(source, 0))
        ]
        if lost:
            self.give_up(lost, reason)

    def give_up(self, lost: Collection[Channel | Interest], reason: str) -> None:
        """Pass over what these sources hold up to now, and say so."""
        names = self._names_of(lost)
        now = max(self._board.position, *(source.evicted for source in lost))
        if len(names) == len(self.interests):
            self.reset(names, reason, max(self.position, now))
            return
        self.pass_over(lost, reason)

    def pass_over(self, lost: Collection[Channel | Interest], reason: str) -> None:
        """The same, for some of what the reader follows, or before what else there is."""
        # The other topics are whole and are replayed from where the reader stands, so this reset
        # must not move its cursor; of the lost ones it gets what comes from now on.
        now = max(self._board.position, *(source.evicted for source in lost))
        for source in lost:
            self._skip[source] = now
        self._live = False
        self._say(self._names_of(lost), reason)

    def _names_of(self, sources: Collection[Channel | Interest]) -> tuple[str, ...]:
        """Return what the stream has asked for of these, as it has named it."""
        return tuple(
            interest.name
            for interest in self.interests
            if interest in sources or any(interest.covers(source.name) for source in sources)
        )

    def drop_channel(self, channel: Channel, covering: Iterable[Interest]) -> None:
        """The channel is dead; its losses are counted in the interests that cover it."""
        del self.channels[channel]
        skip = self._skip.pop(channel, 0)
        for interest in covering:
            self._skip[interest] = max(self._skip.get(interest, 0), skip)

    def beat(self, now: float, before: float) -> None:
        """See whether the reader needs a heartbeat. ``before`` is when that was last asked."""
        if self._taken:
            self._taken = False
            self._beat_due = False
            self._silent_since = before
        if self._heartbeat is not None and now - self._silent_since >= self._heartbeat:
            self._beat_due = True
            self._signal.set()

    def end(self, reason: str) -> None:
        if self.closed is None:
            self.closed = reason
            self._signal.set()

    def _overflow(self) -> None:
        # The reader is slow. What it misses now it will read from the rings, or be told of. Marks
        # go too: one that overtook its messages would hide them. A reset not yet read stays.
        self._pending = [item for item in self._pending if type(item) is _Loss]
        self._pending_bytes = 0
        self._specials = len(self._pending)
        self._live = False
        self._board.counters["overflows"] += 1
        if self._board.notices.due("stream overflow"):
            logger.warning(
                "stream overflow on %s: it goes on from the history", ", ".join(self.names)
            )

    def _say(
        self, names: tuple[str, ...], reason: str, *, log: bool = True, id: str | None = None
    ) -> None:
        if self._opening is not None and self._opening.resumed:
            self._opening = replace(self._opening, resumed=False)
        self.resets += 1
        self._board.counters["resets"] += 1
        if log and self._board.notices.due(f"stream reset ({reason})"):
            logger.warning("stream reset (%s) on %s", reason, ", ".join(names))
        self._append(_Loss(topics=names, reason=reason, at=time.time(), id=id))
        self._signal.set()

    def _read_page(self) -> None:
        self.report_lost("overflow")
        page = list(islice(self._kept(), self._max_pending + 1))
        more = len(page) > self._max_pending
        del page[self._max_pending :]
        self._pending = [*self._pending, *page]
        self._pending_bytes += sum(message.size for message in page)
        # A cursor that came by another process may be ahead of this hub. Until the hub has passed
        # it, reading from the rings is what keeps older events out.
        if more or self._board.position < self.position:
            return
        self._live = True
        if self._skip:  # the cursor was held back (report_lost): bring it up to date
            position = self._board.position
            id = str(Cursor(self._board.epoch, position))
            self._append(Mark(id=id, position=position))

    def _kept(self) -> Iterator[Message]:
        rings = [channel.ring.iterate(self._skipped(channel)) for channel in self.channels]
        return rings[0] if len(rings) == 1 else heapq.merge(*rings, key=_position)

    def _skipped(self, channel: Channel) -> int:
        """Return the position after which the reader gets what a channel has."""
        return max(self.position, self._skip.get(channel, 0))

    def _cursor(self) -> Cursor:
        position = self.position
        if self._live and not self._pending:
            position = max(position, self._board.position)
        return Cursor(self._board.epoch, position)


def _position(message: Message) -> int:
    return message.record.position
