"""A generator view's generator, one frame at a time."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

from django.conf import settings

from ..exceptions import SSEClientDisconnected
from ..sse import SSEEvent, frame
from ..wire import encode_retry

logger = logging.getLogger("flosse_bus")

#: What a client is told of an exception when DEBUG is off.
_HIDDEN = "The stream has failed."


class Steps:
    """Runs ``content``, which is an iterable or, where ``is_async``, an asynchronous one.

    One thread or task at a time. An exception becomes an event named ``error`` after what was
    yielded before, and ends the stream. What cannot be sent becomes one too, and costs no more.
    ``retry``, in milliseconds, goes out with the first frame.
    """

    def __init__(self, content: Any, label: str, retry: int | None = None) -> None:
        self.is_async = hasattr(content, "__aiter__")
        #: Has it raised an exception?
        self.failed = False
        self._content = content
        self._label = label
        self._iterator: Any = None
        self._over = False
        self._prefix = b"" if retry is None else encode_retry(retry)

    def step(self) -> bytes | None:
        """Run it until it yields, and return the frame; ``None`` at its end."""
        if self._over:
            return None
        try:
            if self._iterator is None:
                self._iterator = iter(self._content)
            item = next(cast(Iterator[Any], self._iterator))
        except (StopIteration, GeneratorExit):  # the latter where it was interrupted
            self._over = True
            return None
        except Exception as error:  # noqa: BLE001  # because the client is to be told
            return self._failed(error)
        return self._frame(item)

    async def astep(self) -> bytes | None:
        """Like :meth:`step`, where it is asynchronous."""
        if self._over:
            return None
        try:
            if self._iterator is None:
                self._iterator = aiter(self._content)
            item = await anext(cast(AsyncIterator[Any], self._iterator))
        except StopAsyncIteration:
            self._over = True
            return None
        except Exception as error:  # noqa: BLE001  # because the client is to be told
            return self._failed(error)
        return self._frame(item)

    def close(self) -> None:
        """Have its ``finally`` run, if that is still to be done."""
        self._over = True
        close = getattr(self._iterator or self._content, "close", None)
        if close is None:
            return
        try:
            close()
        except Exception:
            logger.exception("%s failed while it was closed", self._label)

    async def aclose(self) -> None:
        """Like :meth:`close`, where it is asynchronous."""
        self._over = True
        close = getattr(self._iterator, "aclose", None)
        if close is None:
            return
        try:
            await close()
        except Exception:
            logger.exception("%s failed while it was closed", self._label)

    def _failed(self, error: Exception) -> bytes | None:
        self._over = True
        if isinstance(error, SSEClientDisconnected):
            return None
        self.failed = True
        logger.error("%s has raised an exception", self._label, exc_info=error)
        return self._first(_error(error))

    def _frame(self, item: Any) -> bytes:
        try:
            return self._first(frame(item))
        except Exception as error:  # noqa: BLE001  # because the client is to be told
            logger.warning("%s has yielded what cannot be sent: %s", self._label, error)
            return self._first(_error(error))

    def _first(self, frame: bytes) -> bytes:
        frame, self._prefix = self._prefix + frame, b""
        return frame


def _error(error: Exception) -> bytes:
    text = _HIDDEN
    if settings.DEBUG:
        with contextlib.suppress(Exception):  # its own __str__ may fail
            text = str(error)
    return frame(SSEEvent(text.encode(errors="backslashreplace"), event="error"))
