"""In a storm of reconnects Django authorises a few streams at a time.

Under ASGI it runs each request in a thread of its own. Some thousand of them at once would fight
over the interpreter, and the event loop, which has events to send to those who are there, would
have to wait with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from .loops import PerLoop

#: Requests for streams on which Django works at once, in each event loop.
AT_ONCE = 10
#: Seconds after which the next one is let in, whatever keeps this one: it may be no stream at all.
LONGEST = 1.0

_turns = PerLoop(lambda: asyncio.Semaphore(AT_ONCE))


class Turn:
    """One request's: waited for, if it asks for a stream, and given back once.

    Wait for it when the whole request is there, for its client may take as long as it likes.
    """

    __slots__ = ("_needed", "_timer", "_turns")

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self._needed = wants_stream(scope)
        self._turns: asyncio.Semaphore | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def take(self) -> None:
        if not self._needed:
            return
        turns = _turns.here()
        await turns.acquire()
        self._turns = turns
        self._timer = asyncio.get_running_loop().call_later(LONGEST, self.leave)

    def leave(self) -> None:
        """Let the next one in. Again is harmless."""
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.release()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def wants_stream(scope: Mapping[str, Any]) -> bool:
    """Does the client ask for an event stream, as every ``EventSource`` does?

    Other methods do not count. There are clients that name streams among what they accept with each
    call they make, and the answer to it may take long.
    """
    return scope.get("method") == "GET" and any(
        name == b"accept" and b"text/event-stream" in value for name, value in scope["headers"]
    )
