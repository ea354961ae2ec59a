"""The last events of one topic, and the proof of what is missing.

The invariant: every item of the topic with a position in ``(evicted, head]`` is here. Whoever
stands at position p has missed nothing if and only if ``evicted <= p``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Positioned(Protocol):
    @property
    def position(self) -> int: ...
    @property
    def published_at(self) -> float: ...
    @property
    def size(self) -> int: ...


ItemT = TypeVar("ItemT", bound=Positioned)


class Ring(Generic[ItemT]):
    """Keeps at most ``size`` items, none older than ``ttl`` seconds (``None``: any age), and no
    more than ``max_bytes`` of them (``None``: any number) unless the newest alone has more.
    """

    __slots__ = (
        "_bytes", "_items", "_max_bytes", "_positions", "_size", "_start", "_steps", "_ttl",
        "evicted", "head"
    )  # fmt: skip

    def __init__(
        self, *, size: int, ttl: float | None, max_bytes: int | None = None, evicted: int = 0
    ) -> None:
        self._size = size
        self._ttl = ttl
        self._max_bytes = max_bytes
        # What is kept has so many bytes. Not counted without a bound.
        self._bytes = 0
        # Two parallel lists with a moving start: bisect on positions, slices for replay, and
        # both cut only when an eighth of the size is dead, so that a drop costs O(1).
        self._positions: list[int] = []
        self._items: list[ItemT] = []
        self._start = 0
        # Where the clock was set back: up to each position all is as old as the time beside it at
        # least, whatever the dates say. Both rise.
        self._steps: tuple[tuple[int, float], ...] = ()
        #: The highest position that this topic has lost; 0 for none.
        self.evicted = evicted
        #: The highest position ever appended or lost.
        self.head = evicted

    def __len__(self) -> int:
        return len(self._items) - self._start

    def append(self, item: ItemT) -> None:
        """Add the topic's next item. Positions must rise."""
        if item.position <= self.head:
            raise ValueError(f"position {item.position} is not after {self.head}")
        if len(self) and item.published_at < self._items[-1].published_at:
            self.date(item.published_at)
        self._positions.append(item.position)
        self._items.append(item)
        self.head = item.position
        if len(self) > self._size:
            self._drop_first()
        if self._max_bytes is not None:
            self._bytes += item.size
            while self._bytes > self._max_bytes and len(self) > 1:
                self._drop_first()

    def date(self, at: float) -> None:
        """Say that all that is kept was published at ``at`` or before."""
        earlier = (step for step in self._steps if step[1] < at)
        self._steps = (*earlier, (self.head, at))

    def lose(self, position: int) -> None:
        """Say that everything up to ``position`` may be missing, whatever was kept of it."""
        while len(self) and self._positions[self._start] <= position:
            self._drop_first()
        self.evicted = max(self.evicted, position)
        self.head = max(self.head, position)

    def expire(self, now: float) -> None:
        """Drop what is older than the ring's ``ttl`` at time ``now`` (seconds, Unix epoch)."""
        if self._ttl is None:
            return
        while self._steps and self._steps[0][1] < now - self._ttl:
            position, self._steps = self._steps[0][0], self._steps[1:]
            while len(self) and self._positions[self._start] <= position:
                self._drop_first()
        while len(self) and self._items[self._start].published_at < now - self._ttl:
            self._drop_first()

    def after(self, position: int, limit: int | None = None) -> list[ItemT]:
        """Return at most ``limit`` kept items after ``position``, oldest first."""
        first = bisect_right(self._positions, position, lo=self._start)
        last = None if limit is None else first + limit
        return self._items[first:last]

    def count(self, position: int) -> int:
        """Return how many items are kept after ``position``."""
        return len(self._items) - bisect_right(self._positions, position, lo=self._start)

    def iterate(self, position: int) -> Iterator[ItemT]:
        """Yield the kept items after ``position``. The ring must not change meanwhile."""
        for index in range(
            bisect_right(self._positions, position, lo=self._start), len(self._items)
        ):
            yield self._items[index]

    def _drop_first(self) -> None:
        self.evicted = max(self.evicted, self._positions[self._start])
        if self._max_bytes is not None:
            self._bytes -= self._items[self._start].size
        self._start += 1
        # Of a ring that is bounded by bytes no more than an eighth may be dead, either.
        if self._start * 8 >= min(self._size, len(self._items)):
            del self._positions[: self._start]
            del self._items[: self._start]
            self._start = 0
