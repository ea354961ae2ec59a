"""Let event streams through untouched, add CORS for them, and end them when the server stops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_cache_control

from . import compression, cors
from .details import EVENT_STREAM, SSEDetails, accepts_stream
from .transport import shutdown
from .wire import HEADERS

#: What makes other middleware answer 304 or 412 in a stream's place.
_CONDITIONS = (
    "HTTP_IF_MATCH",
    "HTTP_IF_MODIFIED_SINCE",
    "HTTP_IF_NONE_MATCH",
    "HTTP_IF_UNMODIFIED_SINCE",
)


class BusMiddleware:
    """First in MIDDLEWARE, so that it sees requests first and responses last.

    Sets ``request.sse``: :class:`SSEDetails`.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(cast(Any, self))
        # An outer GZipMiddleware would still compress: only at the very end is the mark taken off.
        self._outermost = [*settings.MIDDLEWARE][:1] == [f"{__name__}.{type(self).__qualname__}"]
        shutdown.install()

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._acall(request)
        answer = cors.preflight(request)
        if answer is not None:
            return answer
        last = self._begin(request)
        return self._finish(request, self.get_response(request), last)

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        answer = cors.preflight(request)
        if answer is not None:
            return answer
        last = self._begin(request)
        return self._finish(request, await self.get_response(request), last)

    def _begin(self, request: HttpRequest) -> bool:
        """Prepare the request; return whether nothing will see the response after us."""
        # Where the middleware is there twice, the request has been through the outer one.
        last = self._outermost and not hasattr(request, "sse")
        meta = request.META
        cast(Any, request).sse = SSEDetails(meta)
        if accepts_stream(meta):
            # What middleware further in does to the response is done when we see it.
            _unconditional(request)
            if "HTTP_ACCEPT_ENCODING" in meta:
                meta["HTTP_ACCEPT_ENCODING"] = "identity"
                _forget_headers(request)
        return last

    def _finish(
        self, request: HttpRequest, response: HttpResponseBase, last: bool
    ) -> HttpResponseBase:
        if _is_stream(response):
            compression.undo(response)
            _protect(response, last)
            _unconditional(request)  # for ConditionalGetMiddleware further out
            cors.allow(request, response)
        elif cors.answers_for(request):  # a refusal, which fetch() of another origin may read too
            cors.allow(request, response)
        return response


def _is_stream(response: HttpResponseBase) -> bool:
    content_type = response.headers.get("Content-Type", "")
    return content_type.partition(";")[0].strip().lower() == EVENT_STREAM


def _protect(response: HttpResponseBase, last: bool) -> None:
    headers = response.headers
    if headers.get("Cache-Control") != HEADERS["Cache-Control"]:
        patch_cache_control(response, no_cache=True, no_transform=True)
    headers["X-Accel-Buffering"] = HEADERS["X-Accel-Buffering"]
    headers.setdefault("Content-Encoding", HEADERS["Content-Encoding"])
    if last and headers["Content-Encoding"] == "identity":
        del headers["Content-Encoding"]
    for validator in ("ETag", "Last-Modified"):  # what has no end has no version
        headers.pop(validator, None)


def _unconditional(request: HttpRequest) -> None:
    if request.method not in ("GET", "HEAD"):  # there they keep writers from losing updates
        return
    for name in _CONDITIONS:
        if request.META.pop(name, None) is not None:
            _forget_headers(request)


def _forget_headers(request: HttpRequest) -> None:
    """Have ``request.headers`` made anew from META, if somebody has used it already."""
    request.__dict__.pop("headers", None)
