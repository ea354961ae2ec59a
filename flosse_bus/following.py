"""Snapshot, then follow: first what there is, then every event since, with nothing in between lost.

The cursor is taken before the snapshot is read. Its id goes out after the snapshot: a client that
is cut off in the midst of it has nothing to resume from, and gets a new one.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from .cursor import EARLIEST
from .events import RESET
from .exceptions import SSEYieldError
from .message import Mark
from .sse import SSEEvent

if TYPE_CHECKING:
    from .bus import Bus


def follow(
    bus: Bus, names: tuple[str, ...], snapshot: Callable[[], Iterable[Any]], after: str | None
) -> Iterator[Any]:
    """See :meth:`Bus.follow`."""
    resume = _place(after)
    while True:
        if resume is None:
            cursor = bus.cursor(*names)
            for item in snapshot():
                yield _checked(item)
            yield Mark(id=cursor)
            resume = cursor
        with bus.subscribe(*names, after=resume) as events:
            for event in events:
                if event.event == RESET:
                    resume = None
                    break
                yield event
            else:
                return


async def afollow(
    bus: Bus, names: tuple[str, ...], snapshot: Callable[[], Any], after: str | None
) -> AsyncIterator[Any]:
    """See :meth:`Bus.afollow`."""
    resume = _place(after)
    while True:
        if resume is None:
            cursor = await bus.acursor(*names)
            async with aclosing(_items(snapshot)) as items:
                async for item in items:
                    yield _checked(item)
            yield Mark(id=cursor)
            resume = cursor
        async with bus.subscribe(*names, after=resume) as events:
            async for event in events:
                if event.event == RESET:
                    resume = None
                    break
                yield event
            else:
                return


async def _items(snapshot: Callable[[], Any]) -> AsyncGenerator[Any, None]:
    if inspect.isasyncgenfunction(snapshot):
        async with aclosing(snapshot()) as items:
            async for item in items:
                yield item
        return
    if inspect.iscoroutinefunction(snapshot):
        items = list(await snapshot())
    else:
        items = await sync_to_async(lambda: list(snapshot()))()
    for item in items:
        yield item


def _place(after: str | None) -> str | None:
    # All that is kept is no substitute for a snapshot, which starts from all there is.
    return None if after in (None, "", EARLIEST) else after


def _checked(item: Any) -> Any:
    if (
        (isinstance(item, tuple) and len(item) == 3 and item[2] is not None)
        or (isinstance(item, dict) and "data" in item and item.get("id") is not None)
        or (isinstance(item, SSEEvent) and item.id is not None)
    ):
        raise SSEYieldError(
            "snapshot: an item has an id. The browser would send it back to resume from; the "
            "position after the snapshot is sent by itself."
        )
    return item
