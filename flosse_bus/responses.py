"""The response that carries a stream."""

from __future__ import annotations

import weakref
from typing import Any

from django.http import StreamingHttpResponse

from .transport.stock import aframes, frames, release_connections
from .transport.stream import Stream
from .wire import CONTENT_TYPE

#: Nothing between here and the client may keep, join, or recode what is sent.
HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
    # Keeps GZipMiddleware off, which would hold events back in its buffer. BusMiddleware takes
    # it out again, as RFC 9110 (8.4.1) wants.
    "Content-Encoding": "identity",
}

_CONTENT: Any = StreamingHttpResponse.streaming_content


class EventStreamResponse(StreamingHttpResponse):
    """Streams a :class:`Stream`, whichever kind of server iterates it.

    However the response ends, and also when it never begins, the stream's place is given up.
    """

    def __init__(self, stream: Stream, *, is_async: bool, **kwargs: Any) -> None:
        self.stream = stream
        super().__init__(
            aframes(stream) if is_async else frames(stream), content_type=CONTENT_TYPE, **kwargs
        )
        self._handed_over = False
        for name, value in HEADERS.items():
            self.headers[name] = value
        self._finalizer = weakref.finalize(self, stream.close)
        self._finalizer.atexit = False
        self._wrapped = False

    @property
    def streaming_content(self) -> Any:
        return _CONTENT.fget(self)

    @streaming_content.setter
    def streaming_content(self, value: Any) -> None:
        _CONTENT.fset(self, value)
        self._wrapped = True

    def hand_over(self) -> Stream | None:
        """Give the stream to whoever will send it in this response's place, and close it.

        ``None`` where something has wrapped the content: then only iterating it does what that
        wants.
        """
        if self._wrapped or self._finalizer.detach() is None:
            return None
        self._handed_over = True
        return self.stream

    def close(self) -> None:
        """End Django's request; and the stream too, unless somebody else sends it."""
        if self.closed:  # Django 4.2 closes it where it sends it, later versions after that
            return
        super().close()
        if self._handed_over:
            # Under ASGI each request has a thread of its own, which ends now.
            release_connections()
        else:
            self.stream.close()
