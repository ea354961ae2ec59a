"""Subscriptions for code on the server: an iterator of events, blocking or asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType

from django.core.exceptions import SynchronousOnlyOperation

from .events import Event
from .hubs import Hubs
from .interrupts import Interrupts, current
from .message import Mark, Opening
from .readers import AsyncReader, ThreadReader
from .subscription import Item


class Subscribe:
    """What :meth:`Bus.subscribe` returns: enter it once."""

    def __init__(self, hubs: Hubs, names: tuple[str, ...], after: str | None) -> None:
        self._hubs = hubs
        self._names = names
        self._after = after
        self._events: Events | AsyncEvents | None = None
        self._interrupts: Interrupts | None = None

    def __enter__(self) -> Events:
        if _in_event_loop():
            raise SynchronousOnlyOperation(
                "Iterating here would block the event loop. Use 'async with bus.subscribe(...)'."
            )
        thread = self._hubs.threaded()
        reader = ThreadReader(thread, self._names, after=self._after, heartbeat=None)
        events = Events(reader, self._after)
        self._interrupts = current.get()
        if self._interrupts is not None:
            self._interrupts.add(events.interrupt)
        self._events = events
        return events

    def __exit__(self, *exc: object) -> None:
        if isinstance(self._events, Events):
            if self._interrupts is not None:
                self._interrupts.discard(self._events.interrupt)
            self._events.close()

    async def __aenter__(self) -> AsyncEvents:
        reader = await AsyncReader.open(self._hubs.here(), self._names, after=self._after)
        self._events = AsyncEvents(reader, self._after)
        return self._events

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._events is not None:
            self._events.close()


class Events(Iterator[Event]):
    """The events of a subscription, for sync code."""

    def __init__(self, reader: ThreadReader, after: str | None) -> None:
        self._reader = reader
        self._ready: Iterator[Event] = iter(())
        self._interrupted = False
        #: Where to resume: after the last event returned.
        self.cursor = after or str(reader.subscription.cursor)

    def __next__(self) -> Event:
        while True:
            for event in self._ready:
                self.cursor = event.id
                return event
            items = self._reader.read()
            if self._interrupted:
                raise GeneratorExit
            if not items:
                raise StopIteration
            self._ready = _events(items)

    def close(self) -> None:
        """End the iteration, from any thread."""
        self._reader.close()

    def interrupt(self) -> None:
        """End the generator that iterates here, as closing it where it yields would."""
        self._interrupted = True
        self._reader.close()


class AsyncEvents(AsyncIterator[Event]):
    """The events of a subscription, for async code."""

    def __init__(self, reader: AsyncReader, after: str | None) -> None:
        self._reader = reader
        self._ready: Iterator[Event] = iter(())
        #: Where to resume: after the last event returned.
        self.cursor = after or str(reader.subscription.cursor)

    async def __anext__(self) -> Event:
        while True:
            for event in self._ready:
                self.cursor = event.id
                return event
            items = await self._reader.read()
            if not items:
                raise StopAsyncIteration
            self._ready = _events(items)

    def close(self) -> None:
        """End the iteration."""
        self._reader.close()


def _events(items: Sequence[Item]) -> Iterator[Event]:
    return iter([item.to_event() for item in items if not isinstance(item, (Mark, Opening))])


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
