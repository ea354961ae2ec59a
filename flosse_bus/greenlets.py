"""Event loops among greenlets: gevent makes one of every thread, if it has patched the library.

All greenlets share a thread of the system, and that is what asyncio knows a running loop by. While
it waits, such a loop would seem to run in each of the others: Django would refuse them the ORM, and
asyncio loops of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import selectors
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from django.db import connections

T = TypeVar("T")

logger = logging.getLogger("flosse_bus")


def are_threads() -> bool:
    """Is a thread no more than a greenlet?"""
    # Whoever patches has imported it.
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("threading")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a loop for a thread of one's own, be it a greenlet."""
    if not are_threads():
        return asyncio.new_event_loop()

    class Selector(selectors.DefaultSelector):  # gevent's by now: others run while it waits
        outside: asyncio.AbstractEventLoop | None = None

        def select(self, timeout: float | None = None) -> Any:
            loop = asyncio._get_running_loop()
            asyncio._set_running_loop(self.outside)
            try:
                return super().select(timeout)
            finally:
                self.outside = asyncio._get_running_loop()
                asyncio._set_running_loop(loop)

    logger.addFilter(_handle_elsewhere)
    return GreenletLoop(Selector())


class GreenletLoop(asyncio.SelectorEventLoop):
    """Seen in its own greenlet only; the others see what its selector has as ``outside``.

    So it must wait nowhere else. That rules out threads: whoever starts one waits for it.
    """

    def __init__(self, selector: Any) -> None:
        self._waiting = selector
        super().__init__(selector)

    def run_forever(self) -> None:
        self._waiting.outside = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            super().run_forever()
        finally:
            asyncio._set_running_loop(self._waiting.outside)

    def run_in_executor(  # type: ignore[override]  # because *Ts came with Python 3.11
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run a blocking function in a greenlet, whatever the executor."""
        answer: asyncio.Future[T] = self.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if answer.done():  # nobody waits any more
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]  # because it is one or the other

        def run() -> None:
            result = failure = None
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001  # because it is for whoever waits
                failure = error
            connections.close_all()  # those of this greenlet, which ends here
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                self.call_soon_threadsafe(settle, result, failure)

        sys.modules["gevent"].spawn(run)
        return answer


def _handle_elsewhere(record: logging.LogRecord) -> bool:
    """A handler may wait, such as for a mail server, and must not do that in a loop."""
    if asyncio._get_running_loop() is None:
        return True
    sys.modules["gevent"].spawn(logger.callHandlers, record)
    return False
