"""Let event streams through untouched, add CORS for them, and end them when the server stops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

from .bus import buses
from .conf import DEFAULT_ALIAS
from .responses import HEADERS, EventStreamResponse
from .transport import shutdown


class BusMiddleware:
    """First in MIDDLEWARE, so that it sees responses last."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(cast(Any, self))
        # An outer GZipMiddleware would still compress: only at the very end is the mark taken off.
        self._outermost = settings.MIDDLEWARE[:1] == [f"{__name__}.{type(self).__qualname__}"]
        shutdown.install()

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._acall(request)
        return self._finish(request, self.get_response(request))

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        return self._finish(request, await self.get_response(request))

    def _finish(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            return response
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        if self._outermost and response.headers["Content-Encoding"] == "identity":
            del response.headers["Content-Encoding"]
        _allow_origin(request, response)
        return response


def _allow_origin(request: HttpRequest, response: HttpResponseBase) -> None:
    if isinstance(response, EventStreamResponse):
        config = response.stream.bus.config
    else:
        config = buses[DEFAULT_ALIAS].config
    if not config.allowed_origins:
        return
    patch_vary_headers(response, ["Origin"])
    origin = request.headers.get("Origin")
    if origin in config.allowed_origins:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Credentials"] = "true"
