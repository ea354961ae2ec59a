"""How a subscription is read: from an event loop, or from a thread that may block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from .hub import Hub
from .hubs import HubThread
from .subscription import Item, Subscription

SignalT = TypeVar("SignalT", asyncio.Event, threading.Event)


class _Reader(Generic[SignalT]):
    """How reading ends, which is the same for both."""

    def __init__(self, hub: Hub, subscription: Subscription, signal: SignalT) -> None:
        self._hub = hub
        self._signal: SignalT = signal
        self.subscription = subscription

    def end(self, reason: str) -> None:
        """Make read() return nothing more. Any thread."""
        self._hub.end(self.subscription, reason)

    def leave(self, reason: str) -> None:
        """Take the subscription out of the hub. Any thread; whoever waits in read() still does."""
        self._hub.close(self.subscription, reason)

    @property
    def stopping(self) -> bool:
        """Has the stream ended because the server stops?"""
        return self.subscription.closed == "shutdown"

    def give_up(self, reason: str) -> None:
        """The client takes nothing any more. Only in the hub's loop."""
        self._hub.give_up(self.subscription, reason)
        self._signal.set()

    def close(self) -> None:
        """Leave, and let read() return nothing. An AsyncReader: only in the hub's loop."""
        self.leave("closed")
        self._signal.set()

    def _next(self) -> Sequence[Item] | None:
        subscription = self.subscription
        if subscription.closed is not None:
            return ()
        return subscription.take() or None


class AsyncReader(_Reader[asyncio.Event]):
    """Reads in the hub's own event loop."""

    @classmethod
    async def open(
        cls, hub: Hub, names: Iterable[str], *, after: str | None, heartbeat: float | None = None
    ) -> AsyncReader:
        signal = asyncio.Event()
        return cls(
            hub, await hub.open(names, after=after, signal=signal, heartbeat=heartbeat), signal
        )

    async def read(self) -> Sequence[Item]:
        """Wait for what comes next. Empty: the stream has ended."""
        while True:
            self._signal.clear()
            items = self._next()
            if items is not None:
                return items
            await self._signal.wait()


class ThreadReader(_Reader[threading.Event]):
    """Reads in any thread, from the hub on its own thread."""

    def __init__(
        self, thread: HubThread, names: Iterable[str], *, after: str | None, heartbeat: float | None
    ) -> None:
        signal = threading.Event()
        opening = thread.hub.open(names, after=after, signal=signal, heartbeat=heartbeat)
        super().__init__(thread.hub, thread.run(opening), signal)

    def read(self) -> Sequence[Item]:
        """Block until something comes. Empty: the stream has ended."""
        while True:
            self._signal.clear()
            items = self._next()
            if items is not None:
                return items
            self._signal.wait()
