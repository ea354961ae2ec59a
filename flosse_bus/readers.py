"""How a subscription is read: from an event loop, or from a thread that may block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

from .hub import Hub
from .hubs import HubThread
from .subscription import Item, Subscription


class AsyncReader:
    """Reads in the hub's own event loop."""

    def __init__(self, hub: Hub, subscription: Subscription, signal: asyncio.Event) -> None:
        self._hub = hub
        self._signal = signal
        self.subscription = subscription

    @classmethod
    async def open(
        cls, hub: Hub, names: Iterable[str], *, after: str | None, heartbeat: float | None = None
    ) -> AsyncReader:
        signal = asyncio.Event()
        return cls(
            hub, await hub.open(names, after=after, signal=signal, heartbeat=heartbeat), signal
        )

    async def read(self) -> list[Item]:
        """Wait for what comes next. Empty: the stream has ended."""
        while True:
            self._signal.clear()
            items = _next(self.subscription)
            if items is not None:
                return items
            await self._signal.wait()

    def end(self, reason: str) -> None:
        """Make :meth:`read` return nothing more. Any thread."""
        self._hub.end(self.subscription, reason)

    def leave(self) -> None:
        """Take the subscription out of the hub. Any thread; whoever waits in read() still does."""
        self._hub.close(self.subscription)

    def close(self) -> None:
        """Leave, and let :meth:`read` return nothing. Only in the hub's loop."""
        self.leave()
        self._signal.set()


class ThreadReader:
    """Reads in any thread, from the hub on its own thread."""

    def __init__(
        self, thread: HubThread, names: Iterable[str], *, after: str | None, heartbeat: float | None
    ) -> None:
        self._hub = thread.hub
        self._signal = threading.Event()
        self.subscription = thread.run(
            thread.hub.open(names, after=after, signal=self._signal, heartbeat=heartbeat)
        )

    def read(self) -> list[Item]:
        """Block until something comes. Empty: the stream has ended."""
        while True:
            self._signal.clear()
            items = _next(self.subscription)
            if items is not None:
                return items
            self._signal.wait()

    def end(self, reason: str) -> None:
        """Make :meth:`read` return nothing more. Any thread."""
        self._hub.end(self.subscription, reason)

    def leave(self) -> None:
        """Take the subscription out of the hub. Any thread; whoever waits in read() still does."""
        self._hub.close(self.subscription)

    def close(self) -> None:
        """Leave, and let :meth:`read` return nothing. Any thread."""
        self.leave()
        self._signal.set()


def _next(subscription: Subscription) -> list[Item] | None:
    if subscription.closed is not None:
        return []
    return subscription.take() or subscription.take_heartbeat() or None
