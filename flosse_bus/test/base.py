"""What the tests of the contract share."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from ..backends.base import BusBackend, Interruption, Listener
from ..conf import BusConfig, TopicSettings, load
from ..cursor import Cursor
from ..events import Draft, Record, draft
from ..topics import compile_pattern

#: Seconds that anything here may take.
DEADLINE = 20.0


def item(topic: str, data: Any = None, event: str | None = None, key: str | None = None) -> Draft:
    """Return what ``bus.publish`` would hand to a backend."""
    return draft(topic, data, event, max_size=1 << 21, key=key)


def topics(patterns: Mapping[str, Mapping[str, Any]]) -> tuple[TopicSettings, ...]:
    """Return what ``TOPICS`` makes of patterns, each with fields of ``conf.History``."""
    return tuple(
        TopicSettings(pattern=pattern, regex=compile_pattern(pattern), given=given)
        for pattern, given in patterns.items()
    )


def wait_until(condition: Callable[[], object], deadline: float = DEADLINE) -> None:
    """Wait for a condition, or fail."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "deadline passed"
        time.sleep(0.005)


def forget(backend: BusBackend, topic: str) -> None:
    """Wait for a topic whose events expire soon to be forgotten by the log."""

    def forgotten() -> bool:
        backend.publish(item("busy"))
        return topic not in backend.read([topic]).topics

    wait_until(forgotten)


class ContractBase:
    """How the tests get at a backend. See :class:`~flosse_bus.test.BackendContract`."""

    #: Does it tell by class what forgotten topics may have lost?
    forgets_by_class = False

    def make_backend(self, config: BusConfig) -> BusBackend:
        """Return a backend with an empty log. Override it."""
        raise NotImplementedError("make_backend() must be overridden")  # because it is the point

    def cut(self, backend: BusBackend) -> None:
        """Break every connection to the broker, on the broker's side, if there is one.

        Override it. It must let new connections through.
        """

    def another(self, backend: BusBackend, **settings: Any) -> BusBackend | None:
        """Return one more backend on the log of this one, with some settings changed.

        Override it, unless a log is in one object. It gets closed.
        """
        return None

    @contextlib.contextmanager
    def backend(self, **settings: Any) -> Iterator[BusBackend]:
        """Make a backend with some settings (fields of ``BusConfig``) changed."""
        backend = self.make_backend(dataclasses.replace(load("default"), **settings))
        try:
            yield backend
        finally:
            backend.close()

    @contextlib.asynccontextmanager
    async def listener(self, backend: BusBackend, *names: str) -> AsyncIterator[Inbox]:
        """Listen to topics and collect what comes."""
        inbox = Inbox(backend.listen())
        await inbox.listener.watch(names)
        task = asyncio.create_task(inbox.collect())
        try:
            yield inbox
        finally:
            await inbox.listener.aclose()
            await asyncio.wait_for(task, DEADLINE)


class Inbox:
    """What a listener has delivered."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.records: list[Record] = []
        self.marks: list[Cursor] = []
        self.interruptions = 0

    async def collect(self) -> None:
        async for heard in self.listener:
            if isinstance(heard, Interruption):
                self.interruptions += 1
            elif isinstance(heard, Cursor):
                self.marks.append(heard)
            else:
                self.records += heard

    def of(self, *topics: str) -> list[Record]:
        return [record for record in self.records if record.topic in topics]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait as the hub does: asking the listener now and then how far it has got."""
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, "deadline passed"
            await self.listener.probe()
            await asyncio.sleep(0.01)

    @property
    def epoch(self) -> str | None:
        """The epoch that was heard of last."""
        return self.marks[-1].epoch if self.marks else None
