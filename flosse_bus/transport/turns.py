"""In a storm of reconnects Django authorises a few streams at a time.

Under ASGI it runs each request in a thread of its own. Some thousand of them at once would fight
over the interpreter, and the event loop, which has events to send to those who are there, would
have to wait with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from .loops import PerLoop

#: Requests for streams on which Django works at once, in each event loop.
AT_ONCE = 10

_turns = PerLoop(lambda: asyncio.Semaphore(AT_ONCE))


class Turn:
    """One request's: waited for on entering, if it asks for a stream, and given back once."""

    __slots__ = ("_needed", "_turns")

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self._needed = wants_stream(scope)
        self._turns: asyncio.Semaphore | None = None

    async def __aenter__(self) -> None:
        if not self._needed:
            return
        turns = _turns.here()
        await turns.acquire()
        self._turns = turns

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Let the next one in. Again is harmless."""
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.release()


def wants_stream(scope: Mapping[str, Any]) -> bool:
    """Does the client ask for an event stream, as every ``EventSource`` does?"""
    return any(
        name == b"accept" and b"text/event-stream" in value for name, value in scope["headers"]
    )
