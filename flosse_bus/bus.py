"""``bus`` and ``buses``: publish, read back, subscribe."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeGuard, cast

from django.core.signals import setting_changed
from django.db import connections
from django.utils.connection import ConnectionProxy
from django.utils.module_loading import import_string

from .backends.base import BusBackend, Snapshot
from .callers import ask_caller, may_wait_for_async
from .commits import send_on_commit
from .conf import DEFAULT_ALIAS, SETTING, BusConfig, configured_aliases, load
from .consumers import Subscribe
from .cursor import EARLIEST, Cursor
from .events import Draft, Event, draft, to_events
from .exceptions import EventTooLarge, HistoryGone, InvalidBusBackend, InvalidEvent, InvalidTopic
from .following import afollow, follow
from .hubs import Hubs
from .limits import OpenStreams
from .pulse import Pulse
from .topics import check_subscription, check_topic

logger = logging.getLogger("flosse_bus")

#: What one call to a backend may hold: a broker does nothing else meanwhile.
MAX_BATCH = 10_000
MAX_BATCH_BYTES = 8 << 20

#: One event of ``publish_many``: ``(topic, data)`` or ``(topic, data, event)``.
Item = tuple[str, Any] | tuple[str, Any, str | None]


class Bus:
    """One configured bus. Safe to use from any thread and any event loop."""

    def __init__(self, config: BusConfig, backend: BusBackend) -> None:
        self.config = config
        self.backend = backend
        self.hubs = Hubs(backend, config)
        self.begin()

    def begin(self) -> None:
        """Start with nothing open: a forked child has none of its parent's streams or locks."""
        self.streams = OpenStreams(self.config)
        self.pulse = Pulse(self.backend)

    def publish(
        self,
        topic: str,
        data: Any,
        *,
        event: str | None = None,
        using: str | None = "default",
        idempotency_key: str | None = None,
    ) -> Event | None:
        """Publish ``data`` to a topic.

        Inside ``transaction.atomic()`` on the database ``using`` the event is sent when the
        outermost block commits and dropped when it rolls back; the answer is ``None``. Otherwise,
        and always with ``using=None``, it is sent now and returned. A ``str`` is sent as it is,
        everything else as JSON. What cannot be sent is refused here and now in either case.

        ``idempotency_key`` (1 to 255 characters) makes a repetition harmless: while the bus keeps
        the key, for ``HISTORY_TTL`` seconds, publishing with it again, to whatever topic, appends
        nothing and returns the first event.

        Raises:
            InvalidTopic: not a topic; patterns cannot be published to.
            InvalidEvent: the name, the data or the key cannot be carried.
            EventTooLarge: over ``MAX_EVENT_SIZE`` bytes encoded.
            BackendUnavailable: sent now, and the broker could not be reached; or the event is to be
                part of the transaction, and cannot be written there: the transaction goes on; or
                another transaction has had the key for too long (PostgreSQL).
        """
        item = self._draft(topic, data, event, idempotency_key)
        if self._defer([item], using):
            return None
        return self.backend.publish(item).to_event()

    async def apublish(
        self,
        topic: str,
        data: Any,
        *,
        event: str | None = None,
        using: str | None = "default",
        idempotency_key: str | None = None,
    ) -> Event | None:
        """Like :meth:`publish`, without blocking the event loop.

        Transactions belong to sync code: where async code was called from a thread by
        ``async_to_sync``, that thread is asked whether it is in one. A task that goes on after
        ``async_to_sync`` has returned belongs to none.
        """
        item = self._draft(topic, data, event, idempotency_key)
        if _may_wait_for(using) and await self._adefer([item], using):
            return None
        return (await self.backend.apublish(item)).to_event()

    def publish_many(
        self, events: Iterable[Item], *, using: str | None = "default"
    ) -> list[Event] | None:
        """Publish some events, ``(topic, data)`` or ``(topic, data, event)``, in one call.

        They are next to each other in the log, in this order, all of them or none. ``using``, and
        what is returned, are as with :meth:`publish`. At most 10,000 events and 8 MiB of data.

        Raises:
            InvalidTopic, InvalidEvent, EventTooLarge: nothing was published, because of the event
                whose index the error tells, or because it is too much for one call.
            BackendUnavailable: as with :meth:`publish`.
        """
        items = self._drafts(events)
        if self._defer(items, using):
            return None
        if not items:
            return []
        return to_events(self.backend.publish_many(items))

    async def apublish_many(
        self, events: Iterable[Item], *, using: str | None = "default"
    ) -> list[Event] | None:
        """Like :meth:`publish_many`, without blocking the event loop."""
        items = self._drafts(events)
        if _may_wait_for(using) and await self._adefer(items, using):
            return None
        if not items:
            return []
        return to_events(await self.backend.apublish_many(items))

    def cursor(self, *topics: str) -> str:
        """Return where a page that is rendered now must resume.

        Take it *before* reading what the page shows: a change in between is then shown and
        delivered, never neither.

        Raises:
            InvalidTopic: one of the names is neither a topic nor a pattern.
        """
        self._check(topics)
        return str(self.backend.tail())

    async def acursor(self, *topics: str) -> str:
        """Like :meth:`cursor`, without blocking the event loop."""
        self._check(topics)
        return str(await self.backend.atail())

    def history(
        self, topic: str, after: str | None = None, limit: int | None = None
    ) -> list[Event]:
        """Return kept events of a topic, oldest first.

        With ``after`` the first ``limit`` events after that cursor (or ``"earliest"``), without it
        the last ``limit`` events.

        Raises:
            InvalidTopic: not a topic.
            InvalidCursor: ``after`` is not a cursor.
            HistoryGone: events after ``after`` are no longer kept, or it is of another log.
        """
        check_topic(topic)
        snapshot = self.backend.read([topic])
        return _history(snapshot, self.config, topic, after, _check_limit(limit))

    async def ahistory(
        self, topic: str, after: str | None = None, limit: int | None = None
    ) -> list[Event]:
        """Like :meth:`history`, without blocking the event loop."""
        check_topic(topic)
        snapshot = await self.backend.aread([topic])
        return _history(snapshot, self.config, topic, after, _check_limit(limit))

    def subscribe(self, *topics: str, after: str | None = None) -> Subscribe:
        """Return a context manager, for ``with`` and ``async with``, that gives an iterator.

        It yields every event of the topics and patterns after the cursor ``after``
        (``"earliest"``: all that is kept; ``None``: from now on), in order and once. Lost history
        comes as an event named ``stream-reset``, as on the wire.

        Raises:
            InvalidTopic: one of the names is neither a topic nor a pattern.
            BackendUnavailable: on entering, when the broker cannot be reached.
        """
        return Subscribe(self.hubs, self._some(topics), after)

    def follow(
        self, *topics: str, snapshot: Callable[[], Iterable[Any]], after: str | None = None
    ) -> Iterator[Any]:
        """Yield what a page starts from, then every event after it: for a sync generator view.

        ``yield from bus.follow("orders", after=request.sse.last_event_id, snapshot=orders)``

        ``snapshot`` returns an iterable of what a view may yield, without ids; it may use the ORM.
        A client that comes back with ``after`` gets what it has missed instead; where that is no
        longer kept, a new snapshot. Nothing is lost or repeated between the two.

        Raises:
            InvalidTopic: one of the names is neither a topic nor a pattern.
            SSEYieldError: the snapshot holds an id, which would be taken for a place to resume.
            BackendUnavailable: the broker cannot be reached.
        """
        return follow(self, self._some(topics), snapshot, after)

    def afollow(
        self, *topics: str, snapshot: Callable[[], Any], after: str | None = None
    ) -> AsyncIterator[Any]:
        """Like :meth:`follow`, for ``async for`` in an async generator view.

        ``snapshot`` may also be a coroutine function or an async generator function; a sync one
        runs in a thread.
        """
        return afollow(self, self._some(topics), snapshot, after)

    def close(self) -> None:
        """End every stream of this bus in this process, and let go of its connections."""
        self.hubs.close()
        self.backend.close()

    def _draft(self, topic: str, data: Any, event: str | None, key: str | None = None) -> Draft:
        if key is not None and not self.backend.keeps_keys:
            raise InvalidEvent(
                f"idempotency_key: {type(self.backend).__name__} does not keep keys."
            )
        return draft(check_topic(topic), data, event, max_size=self.config.max_event_size, key=key)

    def _drafts(self, events: Iterable[Item]) -> list[Draft]:
        items = [self._numbered(index, event) for index, event in enumerate(events)]
        if len(items) > MAX_BATCH:
            raise InvalidEvent(f"{len(items)} events are too many for one call: {MAX_BATCH} fit.")
        size = sum(len(item.body) for item in items)
        if len(items) > 1 and size > MAX_BATCH_BYTES:
            raise EventTooLarge(
                f"{size} bytes of data are too many for one call: {MAX_BATCH_BYTES} fit."
            )
        return items

    def _numbered(self, index: int, event: Item) -> Draft:
        if not isinstance(event, (tuple, list)) or len(event) not in (2, 3):
            raise InvalidEvent(
                f"event {index}: expected (topic, data) or (topic, data, event), "
                f"not {event!r:.100}."
            )
        topic, data, *name = event
        try:
            return self._draft(topic, data, name[0] if name else None)
        except (InvalidTopic, InvalidEvent, EventTooLarge) as error:
            raise type(error)(f"event {index}: {error}") from error

    def _defer(self, items: Sequence[Draft], using: str | None) -> bool:
        if using is None or not items or not connections[using].in_atomic_block:
            return False
        if not self.backend.enlist(items, using):
            send_on_commit(connections[using], self._publish_committed, items)
        return True

    async def _adefer(self, items: Sequence[Draft], using: str) -> bool:
        return await ask_caller(partial(self._defer, items, using), using)

    def _publish_committed(self, calls: Sequence[Sequence[Draft]]) -> None:
        # The transaction is over: raising would undo nothing and would take with it whatever else
        # waits for the same commit.
        for batch in _batches(calls):
            try:
                if len(batch) == 1:
                    self.backend.publish(batch[0])
                else:
                    self.backend.publish_many(batch)
            except Exception:
                topics = ", ".join(dict.fromkeys(item.topic for item in batch))
                logger.exception("event for topic %.500s was committed but not published", topics)

    @classmethod
    def _some(cls, topics: tuple[str, ...]) -> tuple[str, ...]:
        if not topics:
            raise InvalidTopic("Name at least one topic or pattern to subscribe to.")
        return cls._check(topics)

    @staticmethod
    def _check(topics: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_subscription(name) for name in topics)


class BusHandler:
    """The configured buses by alias.

    One instance of each serves the whole process. Django's ``BaseConnectionHandler`` would keep
    one per thread and per task, and each would listen to the broker by itself.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._buses: dict[str, Bus] = {}
        self._ending: str | None = None

    def __getitem__(self, alias: str) -> Bus:
        bus = self._buses.get(alias)
        if bus is None:
            with self._lock:
                bus = self._buses.get(alias)
                if bus is None:
                    bus = self._buses[alias] = _make_bus(load(alias))
                    # Looked at last: a signal handler may set it at any time.
                    if self._ending is not None:
                        bus.hubs.end_all(self._ending)
        return bus

    def __iter__(self) -> Iterator[str]:
        return iter(configured_aliases())

    def __contains__(self, alias: object) -> bool:
        return alias in configured_aliases()

    def opened(self) -> list[Bus]:
        """Return the buses that have been used in this process."""
        return list(self._buses.values())

    def all(self) -> list[Bus]:
        """Return every configured bus."""
        return [self[alias] for alias in self]

    def end_all(self, reason: str) -> None:
        """End every stream of this process, now and later, whether or not its bus has been used.

        Any thread, signal handlers included.
        """
        self._ending = reason
        for bus in self.opened():
            bus.hubs.end_all(reason)

    def begin_again(self) -> None:
        """Open streams again, after :meth:`end_all`, where the process goes on. Any loop."""
        self._ending = None
        for bus in self.opened():
            bus.hubs.begin_again()

    def close_all(self) -> None:
        """End every stream and forget the buses; the next use reads the settings again."""
        with self._lock:
            buses, self._buses = self._buses, {}
            self._ending = None
        for bus in buses.values():
            bus.close()

    def after_fork(self) -> None:
        """A forked child has neither the parent's threads nor the right to its locks."""
        self._lock = threading.RLock()
        self._ending = None
        for bus in self._buses.values():
            bus.hubs.forget()
            bus.begin()


def import_backend(config: BusConfig) -> type[BusBackend]:
    """Return the class that an entry of ``FLOSSE_BUS`` names.

    Raises:
        InvalidBusBackend: there is no such class, it is no backend, or an option is not its own.
    """
    where = f"{SETTING}[{config.alias!r}]"
    try:
        backend = import_string(config.backend)
    except ImportError as error:
        raise InvalidBusBackend(f"{where}['BACKEND']: {error}.") from error
    if not (isinstance(backend, type) and issubclass(backend, BusBackend)):
        raise InvalidBusBackend(
            f"{where}['BACKEND']: {config.backend} is not a subclass of "
            "flosse_bus.backends.base.BusBackend."
        )
    known = [
        name
        for name, parameter in inspect.signature(backend).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for option in config.options:
        if option not in known:
            takes = f"It takes: {', '.join(known)}." if known else "It takes none."
            raise InvalidBusBackend(
                f"{where}['OPTIONS']: {option!r} is no option of {backend.__name__}. {takes}"
            )
    return backend


def _make_bus(config: BusConfig) -> Bus:
    return Bus(config, import_backend(config)(config, **config.options))


def _may_wait_for(using: str | None) -> TypeGuard[str]:
    """Must async code ask about a transaction? For an unknown database, to be told that it is."""
    if using is None:
        return False
    return may_wait_for_async(using) or using not in connections.settings


def _batches(calls: Sequence[Sequence[Draft]]) -> Iterator[Sequence[Draft]]:
    """Join calls as far as one call to a backend holds them. None is cut apart."""
    batch: list[Draft] = []
    total = 0
    for items in calls:
        size = sum(len(item.body) for item in items)
        if batch and (len(batch) + len(items) > MAX_BATCH or total + size > MAX_BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.extend(items)
        total += size
    yield batch


def _check_limit(limit: int | None) -> int | None:
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise ValueError(f"limit: expected an integer of at least 1 or None, not {limit!r}.")
    return limit


def _history(
    snapshot: Snapshot, config: BusConfig, topic: str, after: str | None, limit: int | None
) -> list[Event]:
    kept = snapshot.topics.get(topic)
    records = kept.records if kept is not None else ()
    if after is None:
        return [record.to_event() for record in (records[-limit:] if limit else records)]
    if after != EARLIEST:
        cursor = Cursor.parse(after)
        evicted = kept.evicted if kept is not None else snapshot.forgotten_of(topic, config)
        if not snapshot.holds(cursor):
            raise HistoryGone(
                f"{after!r} is not a cursor of this bus's log, which has lost its history since or "
                "never had it. Refetch, and go on from bus.cursor()."
            )
        if cursor.position < evicted:
            raise HistoryGone(
                f"topic {topic!r} has lost events after {after!r}. Refetch and go on from "
                "bus.cursor(), or raise HISTORY_SIZE or HISTORY_TTL."
            )
        records = tuple(r for r in records if r.position > cursor.position)
    return [record.to_event() for record in records[:limit]]


buses = BusHandler()
bus = cast(Bus, ConnectionProxy(cast(Any, buses), DEFAULT_ALIAS))

if sys.platform != "win32":
    os.register_at_fork(after_in_child=buses.after_fork)


def _settings_changed(*, setting: str, **kwargs: Any) -> None:
    if setting == SETTING:
        buses.close_all()


setting_changed.connect(_settings_changed, dispatch_uid="flosse_bus.settings")
