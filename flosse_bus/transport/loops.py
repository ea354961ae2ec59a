"""What there is once for each event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """Makes one for each loop that asks, and forgets those of loops that are closed.

    Not weakly: most of what belongs to a loop refers back to it.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._by_loop: dict[asyncio.AbstractEventLoop, T] = {}

    def here(self) -> T:
        """Return that of the running loop."""
        loop = asyncio.get_running_loop()
        found = self._by_loop.get(loop)
        if found is None:
            self._by_loop = {k: v for k, v in self._by_loop.items() if not k.is_closed()}
            found = self._by_loop[loop] = self._make()
        return found
