"""Which other origins may read what is a stream's: the stream, its refusals, and the preflight.

As the Fetch standard has it, section 3.2. Where ``ALLOWED_ORIGINS`` says nothing of an origin,
nothing is said here, and whatever else answers for CORS in the project does so undisturbed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import Resolver404, resolve
from django.utils.cache import patch_vary_headers
from django.utils.translation import get_language_from_path, override

from .bus import buses
from .conf import DEFAULT_ALIAS, BusConfig
from .responses import EventStreamResponse

#: What every client of a stream may send, beside ALLOWED_HEADERS. An origin that is listed may use
#: the visitor's cookies, so a token that it has got itself gives it no more: hence
#: ``authorization`` by default.
_HEADERS = frozenset({"accept", "cache-control", "last-event-id"})
_METHODS: tuple[str, ...] = ("GET", "HEAD")
#: For a view that says it is a stream: generator views may take a body.
_VIEW_METHODS = (*_METHODS, "POST")
#: Seconds. Browsers cut it to what they like, Chromium to two hours.
_MAX_AGE = "86400"


def preflight(request: HttpRequest) -> HttpResponse | None:
    """Answer a preflight for a stream, from an origin that is listed. Leave all others alone.

    It is for a stream if the URL leads to a view that says so, or if ``Last-Event-ID`` is to be
    sent.
    """
    if request.method != "OPTIONS":
        return None
    origin = request.META.get("HTTP_ORIGIN")
    method = request.META.get("HTTP_ACCESS_CONTROL_REQUEST_METHOD")
    if not origin or not method:
        return None
    requested = request.META.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "").lower().split(",")
    names = {name.strip() for name in requested} - {""}
    view = _resolve(request)
    if _is_stream(view):
        configs, methods = [_config_of(view)], _VIEW_METHODS
    elif "last-event-id" in names:
        # Which bus it is, if any, only the view knows; nothing is revealed before it has answered.
        configs, methods = [bus.config for bus in buses.all()], _METHODS
    else:
        return None
    listed = [config for config in configs if origin in config.allowed_origins]
    headers = _HEADERS.union(*(config.allowed_headers for config in listed))
    if not listed or method not in methods or not names <= headers:
        return None
    response = HttpResponse(status=204)
    del response.headers["Content-Type"]
    _allow(response, origin)
    response.headers["Access-Control-Allow-Methods"] = ", ".join(methods)
    response.headers["Access-Control-Allow-Headers"] = ", ".join(sorted(headers))
    response.headers["Access-Control-Max-Age"] = _MAX_AGE
    patch_vary_headers(
        response, ["Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"]
    )
    return response


def answers_for(request: HttpRequest) -> bool:
    """Return whether the view that the request has reached says that it is a stream."""
    return _is_stream(_reached(request))


def allow(request: HttpRequest, response: HttpResponseBase) -> None:
    """Let the request's origin read the response, if the bus behind it lists it."""
    if isinstance(response, EventStreamResponse):
        config = response.stream.bus.config
    else:
        config = _config_of(_reached(request))
    if not config.allowed_origins:
        return
    patch_vary_headers(response, ["Origin"])
    origin = request.META.get("HTTP_ORIGIN")
    if origin in config.allowed_origins:
        _allow(response, origin)
        response.headers.setdefault("Access-Control-Expose-Headers", "Retry-After")


def _allow(response: HttpResponseBase, origin: str) -> None:
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Allow-Credentials"] = "true"


def _reached(request: HttpRequest) -> Callable[..., Any] | None:
    match = getattr(request, "resolver_match", None)
    return None if match is None else match.func


def _resolve(request: HttpRequest) -> Callable[..., Any] | None:
    # LocaleMiddleware comes later: i18n_patterns() see the language of the path by this.
    with override(get_language_from_path(request.path_info)):
        try:
            return resolve(request.path_info, getattr(request, "urlconf", None)).func
        except Resolver404:
            return None


def _is_stream(view: Callable[..., Any] | None) -> bool:
    return getattr(view, "is_event_stream", False) is True


def _config_of(view: Callable[..., Any] | None) -> BusConfig:
    return buses[getattr(view, "event_stream_bus", DEFAULT_ALIAS)].config
