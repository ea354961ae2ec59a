"""The hub: in one process and event loop the only listener on a backend.

It keeps a ring for each topic that has subscribers, so that a reconnect storm is served from
memory, and hands each event to the subscriptions. Its lock makes registration and snapshot one
step; it is held by plain code only, never across an ``await``.

The invariant: everything in the log up to ``position`` has been handed out to the subscriptions
of this hub, in order, and no ring holds anything beyond it. So whatever a reader takes from the
rings comes before whatever is handed out to it later, over all its topics.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from .backends.base import BusBackend, Interruption, Listener, Snapshot, TopicHistory
from .conf import BusConfig
from .cursor import EARLIEST, Cursor
from .events import Record
from .exceptions import BackendUnavailable, InvalidCursor
from .message import Message
from .ring import Ring
from .subscription import Signal, Subscription
from .topics import compile_pattern, is_pattern

logger = logging.getLogger("flosse_bus")

#: Seconds for which a topic is followed after its last stream, so that a reconnect finds it warm.
LINGER = 30.0
#: Seconds for which a stream that opens waits for the listener to catch up with the log.
PATIENCE = 5.0
#: Seconds between attempts to listen again: doubled each time, jittered, up to the last.
BACKOFF = (0.1, 5.0)


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


class Hub:
    """Made by :class:`~flosse_bus.hubs.Hubs`, inside the event loop that it will run on."""

    def __init__(self, backend: BusBackend, config: BusConfig) -> None:
        self._backend = backend
        self._config = config
        self._opening = asyncio.Lock()
        self._listener: Listener | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._subscriptions: dict[Subscription, None] = {}
        self._channels: dict[str, Channel] = {}
        self._interests: dict[str, Interest] = {}
        self._patterns: list[Interest] = []
        # Records that arrive while a snapshot is fetched: they may be newer than it is.
        self._early: list[Record] | None = None
        self._repairing = False
        self._repairs = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._stopped = False
        self.loop = asyncio.get_running_loop()
        self.lock = threading.Lock()
        self.epoch = ""
        #: Everything up to this position has been handed to the subscriptions here.
        self.position = 0
        self.counters: Counter[str] = Counter()

    # Opening and closing

    async def open(
        self,
        names: Iterable[str],
        *,
        after: str | None,
        signal: Signal,
        heartbeat: float | None = None,
    ) -> Subscription:
        """Subscribe to topics and patterns from a cursor's text, ``"earliest"`` or now.

        A text that is no cursor of this log is not an error: the subscription begins with a
        reset. What :meth:`Subscription.take` gives first is the opening mark or that reset.

        Raises:
            BackendUnavailable: the log cannot be read now.
        """
        subscription = Subscription(
            self,
            tuple(dict.fromkeys(names)),
            signal=signal,
            max_pending=self._config.max_pending,
            max_bytes=max(4 * self._config.max_event_size, 1 << 20),
            heartbeat=heartbeat,
        )
        if self._stopped:
            subscription.end("shutdown")
            return subscription
        async with self._opening:
            await self._follow(subscription.names)
            tail = await self._tail_for(after)
            # No await from here on: nothing can come between snapshot and registration.
            with self.lock:
                self._register(subscription)
                self._place(subscription, after, tail)
        return subscription

    def close(self, subscription: Subscription, reason: str = "closed") -> None:
        """Take out a subscription that nobody reads any more. Again is harmless.

        It never waits for the lock: a reader may be closed by the garbage collector, in the midst
        of anything that this very thread does under it.
        """
        subscription.closed = subscription.closed or reason
        if self.lock.acquire(blocking=False):
            try:
                self._take_out(subscription)
            finally:
                self.lock.release()
        else:
            self._call_soon(self._close, subscription)

    def _close(self, subscription: Subscription) -> None:
        with self.lock:
            self._take_out(subscription)

    def _take_out(self, subscription: Subscription) -> None:
        if subscription not in self._subscriptions:
            return
        del self._subscriptions[subscription]
        now = time.monotonic()
        for interest in subscription.interests:
            del interest.subscriptions[subscription]
            interest.idle_since = now
        for channel in subscription.channels:
            del channel.subscriptions[subscription]
        subscription.channels.clear()

    def end(self, subscription: Subscription, reason: str) -> None:
        """Tell one stream to end, from any thread."""
        self._call_soon(self._end, subscription, reason)

    def _call_soon(self, function: Callable[..., None], *args: object) -> None:
        # A loop that is closed has taken its streams with it.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *args)

    def _end(self, subscription: Subscription, reason: str) -> None:
        with self.lock:
            subscription.end(reason)

    def end_all(self, reason: str) -> None:
        """Tell every stream, and each that still opens, to end. Only in the hub's loop."""
        self._stopped = True
        with self.lock:
            for subscription in self._subscriptions:
                subscription.end(reason)

    @property
    def streams(self) -> int:
        return len(self._subscriptions)

    async def aclose(self) -> None:
        """End all streams and stop listening."""
        self.end_all("shutdown")
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            await self._listener.aclose()
            self._listener = None

    async def _follow(self, names: Iterable[str]) -> None:
        """Listen to these topics and patterns, with what is kept of them in the rings."""
        if self._listener is None:
            # Listen first: whatever is not in the tail then is heard.
            listener = self._backend.listen()
            try:
                tail = await self._backend.atail()
            except BaseException:
                await listener.aclose()
                raise
            self._listener = listener
            self.epoch, self.position = tail.epoch, tail.position
            self._tasks = [
                self.loop.create_task(self._run(), name="flosse_bus.listen"),
                self.loop.create_task(self._keep(), name="flosse_bus.keep"),
            ]
        while cold := [name for name in names if name not in self._interests]:
            await self._until(lambda: not self._repairing)
            repairs = self._repairs
            self._early = []
            try:
                await self._listener.watch(cold)
                snapshot = await self._backend.aread(cold)
                await self._repaired_or_at(repairs, snapshot.tail)
                if self._repairs == repairs and not self._repairing:
                    with self.lock:
                        self._install(cold, snapshot, self._early)
            finally:
                self._early = None

    async def _tail_for(self, after: str | None) -> Cursor:
        """Return a tail of the log that is new enough to judge and place ``after``."""
        if after is not None:
            here = Cursor(self.epoch, self.position)
            cursor = _parse(after)
            if cursor is None or (cursor.epoch == here.epoch and cursor.position <= here.position):
                return here
        while True:
            repairs = self._repairs
            tail = await self._backend.atail()
            if tail.epoch == self.epoch:
                return tail
            await self._repaired_or_at(repairs, tail)

    async def _repaired_or_at(self, repairs: int, cursor: Cursor) -> None:
        """Wait until everything up to a cursor is handed out, or another repair has been."""
        await self._until(lambda: self._repairs != repairs or self.is_at(cursor))

    def is_at(self, cursor: Cursor) -> bool:
        """Has everything up to this cursor been handed out?"""
        return self.epoch == cursor.epoch and self.position >= cursor.position

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for the listener to get so far.

        Raises:
            BackendUnavailable: it does not within ``PATIENCE`` seconds.
        """
        end = self.loop.time() + PATIENCE
        while not condition():
            progress = self.loop.create_future()
            self._waiting.append(progress)
            try:
                await asyncio.wait_for(progress, end - self.loop.time())
            except asyncio.TimeoutError:
                raise BackendUnavailable(
                    f"bus {self._config.alias!r}: the listener is not getting on."
                ) from None

    def _progress(self) -> None:
        waiting, self._waiting = self._waiting, []
        for progress in waiting:
            if not progress.done():
                progress.set_result(None)

    # Placing a subscription, under the lock

    def _register(self, subscription: Subscription) -> None:
        self._subscriptions[subscription] = None
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
        if self._stopped:
            subscription.end("shutdown")

    def _place(self, subscription: Subscription, after: str | None, tail: Cursor) -> None:
        now = time.time()
        for channel in subscription.channels:
            channel.ring.expire(now)
        if after is None:
            subscription.open_at(tail.position)
            subscription.greet(str(tail))
        elif after == EARLIEST:
            subscription.open_at(0)
            subscription.skip_lost()
            kept = any(len(channel.ring) for channel in subscription.channels)
            # A client that is cut off before the first event must ask for all of it again.
            subscription.greet(EARLIEST if kept else str(Cursor(self.epoch, self.position)))
        else:
            self._place_after(subscription, _parse(after), tail)

    def _place_after(self, subscription: Subscription, after: Cursor | None, tail: Cursor) -> None:
        if after is None or after.epoch != tail.epoch or after.position > tail.position:
            subscription.reset(subscription.names, "unknown", tail.position)
            return
        # A client must never hold an id beyond a loss that it has not been told of, so the
        # opening mark is left out where a reset comes first.
        subscription.open_at(after.position)
        subscription.report_lost("expired")
        if not subscription.resets:
            subscription.greet(str(after))

    # Rings, under the lock

    def _install(self, names: Sequence[str], snapshot: Snapshot, early: list[Record]) -> None:
        for topic, history in snapshot.topics.items():
            channel = self._channels.get(topic)
            if channel is None:
                self._add_channel(topic).ring = self._ring_of(history)
            elif history.evicted < channel.evicted:  # a pattern's ring may know less
                ring = self._ring_of(history)
                for message in channel.ring.after(ring.head):
                    ring.append(message)
                channel.ring = ring
        for name in names:
            interest = self._interests[name] = Interest(name)
            if interest.pattern:
                interest.evicted = snapshot.forgotten
                self._patterns.append(interest)
            elif name not in self._channels:
                self._add_channel(name, lost=snapshot.forgotten)
        self._hand_out(early)

    def _add_channel(self, topic: str, lost: int | None = None) -> Channel:
        """Begin to keep a topic, of which nothing after ``lost`` has been published before."""
        channel = self._channels[topic] = Channel(topic, self._new_ring())
        covering = [interest for interest in self._patterns if interest.covers(topic)]
        bounds = [interest.evicted for interest in covering]
        if lost is not None:
            bounds.append(lost)
        channel.ring.lose(min(bounds, default=0))
        for interest in covering:
            for subscription in interest.subscriptions:
                _join(channel, subscription)
        return channel

    def _new_ring(self) -> Ring[Message]:
        return Ring(size=self._config.history_size, ttl=self._config.history_ttl)

    def _ring_of(self, history: TopicHistory) -> Ring[Message]:
        ring = self._new_ring()
        ring.lose(history.evicted)
        for record in history.records:
            ring.append(Message(record))
        return ring

    def _hand_out(self, records: Iterable[Record]) -> None:
        for record in records:
            if record.epoch != self.epoch:
                continue
            channel = self._channels.get(record.topic)
            if channel is None:
                if not any(interest.covers(record.topic) for interest in self._patterns):
                    continue
                channel = self._add_channel(record.topic, lost=record.previous or None)
            ring = channel.ring
            if record.position <= ring.head:
                continue
            if record.previous > ring.head:
                # The listener has missed one. Its readers may be past it, by other topics.
                ring.lose(record.previous)
                for subscription in channel.subscriptions:
                    subscription.give_up([channel], "overflow")
            message = Message(record)
            ring.append(message)
            for subscription in channel.subscriptions:
                subscription.push(message)

    def _begin_epoch(self, snapshot: Snapshot) -> None:
        """All history is lost: take over the new log's and say so to every stream."""
        self.epoch, self.position = snapshot.tail.epoch, snapshot.tail.position
        for channel in self._channels.values():
            history = snapshot.topics.get(channel.name)
            if history is not None:
                channel.ring = self._ring_of(history)
            else:
                channel.ring = self._new_ring()
                channel.ring.lose(snapshot.forgotten)
        for interest in self._patterns:
            interest.evicted = snapshot.forgotten
        for topic, history in snapshot.topics.items():
            if topic not in self._channels:
                self._add_channel(topic).ring = self._ring_of(history)
        for subscription in self._subscriptions:
            subscription.reset(subscription.names, "unknown", self.position, log=False)
        if self._subscriptions:
            logger.warning(
                "bus %r has lost its history: %d streams reset",
                self._config.alias,
                len(self._subscriptions),
            )

    # Listening

    async def _run(self) -> None:
        while self._listener is not None:
            try:
                async for batch in self._listener:
                    if isinstance(batch, Interruption) or batch[0].epoch != self.epoch:
                        await self._repair()
                    if not isinstance(batch, Interruption):
                        await self._dispatch_all(batch)
                return  # aclose() ended it
            except Exception:
                # Streams stay open: what they miss now is read from the log afterwards.
                logger.exception("listening on bus %r failed, trying again", self._config.alias)
            await self._listen_again()

    async def _dispatch_all(self, batch: list[Record]) -> None:
        # A burst is handed out in parts, so that whoever reads fast enough can keep up with it.
        part = max(1, min(self._config.max_pending, self._config.history_size) // 4)
        for start in range(0, len(batch), part):
            if start:
                await asyncio.sleep(0)
            self.dispatch(batch[start : start + part])

    def dispatch(self, records: list[Record]) -> None:
        """Hand a batch, in order of position, to rings and subscriptions."""
        with self.lock:
            self._hand_out(records)
            if records[-1].epoch == self.epoch:
                self.position = max(self.position, records[-1].position)
            if self._early is not None:
                self._early += records
        self._progress()

    async def _listen_again(self) -> None:
        """Replace the listener, as often as it takes, and make good what was missed."""
        pause, longest = BACKOFF
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, longest)
            try:
                async with self._opening:
                    if self._listener is not None:
                        await self._listener.aclose()
                    self._listener = self._backend.listen()
                    await self._listener.watch(list(self._interests))
                await self._repair()
                return
            except Exception as error:  # noqa: BLE001  # because whatever it is, trying goes on
                logger.warning("bus %r is still not there: %s", self._config.alias, error)

    async def _repair(self) -> None:
        """Bring rings and streams up to date from the log.

        Topics that are being added meanwhile are not in its snapshot: they begin again after it.
        """
        self._repairing = True
        self._repairs += 1
        try:
            snapshot = await self._backend.aread(list(self._interests))
            with self.lock:
                if snapshot.tail.epoch != self.epoch:
                    self._begin_epoch(snapshot)
                else:
                    self._merge(snapshot)
        finally:
            self._repairing = False
            self._repairs += 1
            self._progress()

    def _merge(self, snapshot: Snapshot) -> None:
        # Whatever is not after self.position has been handed out here, kept or not.
        for topic in snapshot.topics:
            if topic not in self._channels:
                self._add_channel(topic)
        for name, channel in self._channels.items():
            history = snapshot.topics.get(name)
            evicted = snapshot.forgotten if history is None else history.evicted
            if evicted > max(channel.ring.head, self.position):
                _lose(channel, evicted)
        for interest in self._patterns:
            if snapshot.forgotten > max(interest.evicted, self.position):
                interest.evicted = snapshot.forgotten
                for subscription in interest.subscriptions:
                    subscription.interrupt()
        missed = [record for h in snapshot.topics.values() for record in h.records]
        missed.sort(key=lambda record: record.position)
        self._hand_out(missed)
        self.position = max(self.position, snapshot.tail.position)

    # Housekeeping

    async def _keep(self) -> None:
        pause = min(1.0, self._config.heartbeat / 4)
        swept = time.monotonic()
        while True:
            await asyncio.sleep(pause)
            now = time.monotonic()
            with self.lock:
                for subscription in self._subscriptions:
                    subscription.beat(now)
            if now - swept >= LINGER:
                swept = now
                try:
                    await self.sweep()
                except Exception:
                    logger.exception("bus %r: could not drop idle topics", self._config.alias)

    async def sweep(self, linger: float | None = None) -> None:
        """Stop following what has had no stream for ``linger`` seconds, and forget dead topics."""
        linger = LINGER if linger is None else linger
        async with self._opening:
            with self.lock:
                idle = self._drop_idle(time.monotonic() - linger)
                self._drop_dead(time.time())
            if idle and self._listener is not None:
                await self._listener.unwatch(idle)

    def _drop_idle(self, before: float) -> list[str]:
        idle = [
            interest.name
            for interest in self._interests.values()
            if not interest.subscriptions and interest.idle_since <= before
        ]
        for name in idle:
            del self._interests[name]
        self._patterns = [i for i in self._interests.values() if i.pattern]
        return idle

    def _drop_dead(self, now: float) -> None:
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


def _lose(channel: Channel, position: int) -> None:
    channel.ring.lose(position)
    for subscription in channel.subscriptions:
        subscription.interrupt()


def _parse(text: str) -> Cursor | None:
    try:
        return Cursor.parse(text)
    except InvalidCursor:
        return None
