"""What a backend is: an ordered log that can be appended to, read, and listened to.

Positions are handed out in the order that readers see them: once a reader has seen position n,
nothing with a position below n may appear.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.core.checks import CheckMessage

from ..cursor import Cursor, descends
from ..events import Draft, Record
from ..threads import in_thread

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
    ``forgotten`` the highest position that any topic *not* in ``topics`` may have lost;
    ``forgotten_by`` has what topics of a class may have lost beyond it (``BusConfig.class_of``).
    ``ancestors`` are the epochs that this log has gone on from, each with the last position that
    it brought along: a server that comes back may have lost what it had last, and would give the
    same positions to other events, so it goes on in an epoch of its own.
    """

    tail: Cursor
    topics: Mapping[str, TopicHistory] = field(default_factory=dict)
    forgotten: int = 0
    forgotten_by: Mapping[int, int] = field(default_factory=dict)
    ancestors: Mapping[str, int] = field(default_factory=dict)

    def holds(self, cursor: Cursor) -> bool:
        """Is this a place in the log, of whatever is kept there?"""
        return descends(self.tail, self.ancestors, cursor)

    def forgotten_of(self, name: str, config: BusConfig) -> int:
        """Return the highest position that a topic may have lost that is not in ``topics``.

        Of a pattern: that any topic which it covers may have lost.
        """
        if not self.forgotten_by:
            return self.forgotten
        beyond = (self.forgotten_by.get(number, 0) for number in config.classes_of(name))
        return max(self.forgotten, *beyond)


class Interruption:
    """A listener's word that events may be missing here, or that the epoch has changed."""


#: What a listener yields: records in order; that some may be missing; or how far it has got.
Heard = list[Record] | Interruption | Cursor


class Listener(ABC):
    """The events of the topics watched, as they are appended, in batches and in order.

    A listener that does not hear of every topic also yields cursors: everything of the topics
    watched up to there has been yielded. An exception ends it; the hub makes another one and reads
    from the log what was missed.
    """

    @abstractmethod
    async def watch(self, names: Iterable[str]) -> None:
        """Add topics and patterns. On return, whatever is appended from now on is delivered.

        It must not wait for the iteration to go on: the hub may be between two batches.
        """

    @abstractmethod
    async def unwatch(self, names: Iterable[str]) -> None:
        """Remove topics and patterns. Stray events of theirs may still come."""

    async def probe(self) -> None:  # noqa: B027  # because those that hear everything need none
        """See to it that the iteration soon reaches what is the tail of the log now.

        Called every second and whenever somebody waits for the tail. It must not wait for the
        iteration to go on. A listener whose log is not the same any more says so by what it then
        yields: a cursor or record of another epoch, or an :class:`Interruption`.
        """

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[Heard]:
        """Yield non-empty batches, cursors, an :class:`Interruption` where some may be missing."""

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
    #: Does :meth:`publish_many` append all or none, in one step that nothing comes between?
    atomic_batches = False
    #: Does it heed ``Draft.key``?
    keeps_keys = False

    def __init__(self, config: BusConfig) -> None:
        self.config = config

    @abstractmethod
    def publish(self, draft: Draft) -> Record:
        """Append to the log, from any thread.

        With ``draft.key``, if ``keeps_keys``: return the record that was appended with the same
        key within the last ``config.key_ttl`` seconds, if there is one, and append nothing.

        Raises:
            BackendUnavailable: the log cannot be reached, or has not answered in time. It may
                have got the event in the second case, which a backend must not try again.
        """

    async def apublish(self, draft: Draft) -> Record:
        """Like :meth:`publish`, from any event loop."""
        return await in_thread(self.publish, draft)

    def publish_many(self, drafts: Sequence[Draft]) -> list[Record]:
        """Append some events, in this order, from any thread; return a record for each.

        A backend that has nothing better appends them one by one: others may then come between
        them, and an error leaves those before it in the log. ``atomic_batches`` says which it is.

        Raises:
            BackendUnavailable: as with :meth:`publish`.
        """
        return [self.publish(draft) for draft in drafts]

    async def apublish_many(self, drafts: Sequence[Draft]) -> list[Record]:
        """Like :meth:`publish_many`, from any event loop."""
        return await in_thread(self.publish_many, drafts)

    def enlist(self, drafts: Sequence[Draft], using: str) -> bool:
        """Write events in the transaction that is open on the database ``using``.

        Return false, having done nothing, if the log cannot be part of that transaction.

        Raises:
            BackendUnavailable: they cannot be written. The transaction must go on as if nobody had
                tried: whoever catches this commits it.
            django.db.Error: the transaction itself is lost.
        """
        return False

    @abstractmethod
    def tail(self) -> Cursor:
        """Return the position of the last event of the whole log."""

    async def atail(self) -> Cursor:
        """Like :meth:`tail`, from any event loop."""
        return await in_thread(self.tail)

    @abstractmethod
    def read(self, names: Iterable[str]) -> Snapshot:
        """Return what is kept of some topics and of all topics that some patterns cover."""

    async def aread(self, names: Iterable[str]) -> Snapshot:
        """Like :meth:`read`, from any event loop."""
        return await in_thread(self.read, names)

    @abstractmethod
    def listen(self) -> Listener:
        """Return a listener for the running event loop. It connects when first used."""

    def close(self) -> None:  # noqa: B027  # because memory has none
        """Release connections that the backend keeps for itself. It may be used again after."""

    @abstractmethod
    def flush(self) -> None:
        """Forget every event and begin a new epoch. Open streams are reset."""

    def places(self) -> frozenset[Hashable]:
        """Return what tells where the log is, from the settings alone: for system checks.

        Buses that have one of them in common share a log. Empty: nobody can share it.
        """
        return frozenset()

    def check(self) -> list[CheckMessage]:
        """Return what Django's system checks should say about this backend."""
        return []
