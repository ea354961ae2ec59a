"""The responses that carry a stream: a subscription's, and a generator's."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, StreamingHttpResponse

from .access import Rechecked
from .limits import known_client
from .transport.generated import GeneratorStream
from .transport.generated import aframes as generated_aframes
from .transport.generated import frames as generated_frames
from .transport.stock import aframes, frames, release_connections
from .transport.stream import Stream
from .wire import CONTENT_TYPE, HEADERS

_CONTENT: Any = StreamingHttpResponse.streaming_content


class StreamResponse(StreamingHttpResponse):
    """Carries ``stream``; however the response ends, and also when it never begins, it is closed.

    Under our ASGI application the stream is sent when Django's request is over, unless
    ``needs_request``.
    """

    stream: Stream | GeneratorStream
    needs_request = False

    def __init__(self, stream: Stream | GeneratorStream, content: Any, **kwargs: Any) -> None:
        self.stream = stream
        super().__init__(content, content_type=CONTENT_TYPE, **kwargs)
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

    def hand_over(self) -> Stream | GeneratorStream | None:
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
        try:
            super().close()
        finally:
            if self._handed_over:
                # Under ASGI each request has a thread of its own, which ends now.
                release_connections()
            else:
                self.stream.close()


class EventStreamResponse(StreamResponse):
    """Streams a subscription, whichever kind of server iterates it."""

    stream: Stream

    def __init__(self, stream: Stream, *, is_async: bool, **kwargs: Any) -> None:
        super().__init__(stream, aframes(stream) if is_async else frames(stream), **kwargs)


class SSEResponse(StreamResponse):
    """Streams ``content``: an iterator of what :func:`to_sse` takes, or an asynchronous one.

    ``retry`` is in milliseconds, ``heartbeat`` in seconds of silence, ``label`` for the log,
    ``access`` whom to ask while it is open. It ends when its client's session logs out.

    Raises:
        TooManyStreams: it needs a thread, and ``MAX_STREAM_THREADS`` are taken, or this client's
            share of them.
    """

    stream: GeneratorStream

    def __init__(
        self,
        request: HttpRequest,
        content: Any,
        *,
        retry: int | None = None,
        heartbeat: float | None = None,
        label: str = "a view",
        access: Rechecked | None = None,
        **kwargs: Any,
    ) -> None:
        is_async = isinstance(request, ASGIRequest) or (
            # Whoever passes neither wants what fits the generator.
            not isinstance(request, WSGIRequest) and hasattr(content, "__aiter__")
        )
        environ = None if is_async else getattr(request, "META", None)
        stream = GeneratorStream(
            content,
            label=label,
            retry=retry,
            heartbeat=heartbeat,
            environ=None if is_async else environ if isinstance(environ, Mapping) else {},
            access=access,
            session_key=getattr(getattr(request, "session", None), "session_key", None),
            client=known_client(request),
        )
        super().__init__(
            stream, generated_aframes(stream) if is_async else generated_frames(stream), **kwargs
        )
        # Its generator may yet read the body, which Django closes with the request.
        self.needs_request = request.method not in ("GET", "HEAD")

    @property
    def streaming_content(self) -> Any:
        content = _CONTENT.fget(self)
        if self._wrapped or self.is_async or not self.stream.steps.is_async:
            return content
        return _Both(content, self.stream)

    @streaming_content.setter
    def streaming_content(self, value: Any) -> None:
        _CONTENT.fset(self, value)
        self._wrapped = True


class _Both:
    """An async generator's content made for WSGI, which a test may read in an event loop."""

    def __init__(self, content: Iterator[bytes], stream: GeneratorStream) -> None:
        self._content = content
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        return self._content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return generated_aframes(self._stream)
