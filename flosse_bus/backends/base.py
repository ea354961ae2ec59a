"""What a backend is: an ordered log that can be appended to, read, and listened to.

Positions are handed out in the order that readers see them: once a reader has seen position n,
nothing with a position below n may appear.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asgiref.sync import sync_to_async
from django.core.checks import CheckMessage

from ..cursor import Cursor
from ..events import Draft, Record

if TYPE_CHECKING:
    from ..conf import BusConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicHistory:
    """What is kept of one topic: ``records`` oldest first, and all after ``evicted`` is there."""

    records: tuple[Record, ...]
    evicted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The log at one moment.

    ``tail`` is its last position, ``topics`` what is kept of each topic asked for, and
    ``forgotten`` the highest position that any topic *not* in ``topics`` may have lost.
    """

    tail: Cursor
    topics: Mapping[str, TopicHistory] = field(default_factory=dict)
    forgotten: int = 0


class Interruption:
    """A listener's word that events may be missing here, or that the epoch has changed."""


class Listener(ABC):
    """The events of the topics watched, as they are appended, in batches and in order.

    Whatever the tail of the log is after :meth:`watch`, the batches must get there within a
    moment: the hub waits for it before it hands out what it has read.
    """

    @abstractmethod
    async def watch(self, names: Iterable[str]) -> None:
        """Add topics and patterns. On return, whatever is appended from now on is delivered.

        It must not wait for the iteration to go on: the hub may be between two batches.
        """

    @abstractmethod
    async def unwatch(self, names: Iterable[str]) -> None:
        """Remove topics and patterns. Stray events of theirs may still come."""

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[list[Record] | Interruption]:
        """Yield non-empty batches; an :class:`Interruption` wherever events may be missing."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release everything. The iteration ends."""


class BusBackend(ABC):
    """One log. Constructors must not connect: servers fork after import.

    Subclasses take ``config`` and, as keyword-only arguments, their ``OPTIONS``.
    """

    #: Do other processes see what this one publishes?
    crosses_processes = False
    #: Is the history there after every process of the project has been restarted?
    survives_restart = False

    def __init__(self, config: BusConfig) -> None:
        self.config = config

    @abstractmethod
    def publish(self, draft: Draft) -> Record:
        """Append to the log, from any thread.

        Raises:
            BackendUnavailable: the log cannot be reached. Nothing was published.
        """

    async def apublish(self, draft: Draft) -> Record:
        """Like :meth:`publish`, from any event loop."""
        return await sync_to_async(self.publish, thread_sensitive=False)(draft)

    @abstractmethod
    def tail(self) -> Cursor:
        """Return the position of the last event of the whole log."""

    async def atail(self) -> Cursor:
        """Like :meth:`tail`, from any event loop."""
        return await sync_to_async(self.tail, thread_sensitive=False)()

    @abstractmethod
    def read(self, names: Iterable[str]) -> Snapshot:
        """Return what is kept of some topics and of all topics that some patterns cover."""

    async def aread(self, names: Iterable[str]) -> Snapshot:
        """Like :meth:`read`, from any event loop."""
        return await sync_to_async(self.read, thread_sensitive=False)(names)

    @abstractmethod
    def listen(self) -> Listener:
        """Return a listener for the running event loop. It connects when first used."""

    @abstractmethod
    def flush(self) -> None:
        """Forget every event and begin a new epoch. Open streams are reset."""

    def check(self) -> list[CheckMessage]:
        """Return what Django's system checks should say about this backend."""
        return []
