"""The response that carries a stream."""

from __future__ import annotations

import weakref
from typing import Any

from django.http import StreamingHttpResponse

from .transport.stock import aframes, frames
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


class EventStreamResponse(StreamingHttpResponse):
    """Streams a :class:`Stream`, whichever kind of server iterates it.

    However the response ends, and also when it never begins, the stream's place is given up.
    """

    def __init__(self, stream: Stream, *, is_async: bool, **kwargs: Any) -> None:
        self.stream = stream
        super().__init__(
            aframes(stream) if is_async else frames(stream), content_type=CONTENT_TYPE, **kwargs
        )
        for name, value in HEADERS.items():
            self.headers[name] = value
        weakref.finalize(self, stream.close).atexit = False

    def close(self) -> None:
        super().close()
        self.stream.close()
