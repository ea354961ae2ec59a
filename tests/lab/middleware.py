"""Middleware as projects write it."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar

from asgiref.sync import iscoroutinefunction
from django.http import HttpResponse, HttpResponseForbidden, HttpResponseRedirect
from django.utils import timezone, translation
from django.utils.decorators import (
    async_only_middleware,
    sync_and_async_middleware,
    sync_only_middleware,
)

visitor = ContextVar("visitor", default="nobody")


@sync_only_middleware
def from_sync(get_response):
    def middleware(request):
        response = get_response(request)
        response["X-Sync"] = "yes"
        response.set_cookie("sync", "1")
        return response

    return middleware


@async_only_middleware
def from_async(get_response):
    async def middleware(request):
        response = await get_response(request)
        response["X-Async"] = "yes"
        response.set_cookie("async", "1", path="/events/")
        return response

    return middleware


@sync_only_middleware
def replace(get_response):
    """Answer something else than the view, once it has answered."""

    def middleware(request):
        response = get_response(request)
        if "replace" not in request.GET:
            return response
        if request.GET["replace"] == "redirect":
            return HttpResponseRedirect("/elsewhere/")
        return HttpResponseForbidden("no")

    return middleware


@async_only_middleware
def wrap(get_response):
    """Touch what is streamed."""

    async def middleware(request):
        response = await get_response(request)

        async def shout(parts):
            async for part in parts:
                yield part.upper()

        response.streaming_content = shout(response.streaming_content)
        return response

    return middleware


@sync_and_async_middleware
def in_german(get_response):
    """Set language and time zone for the view only, as careful middleware does."""

    @contextlib.contextmanager
    def there():
        with translation.override("de"), timezone.override("Asia/Tokyo"):
            token = visitor.set("Heidi")
            try:
                yield
            finally:
                visitor.reset(token)

    if iscoroutinefunction(get_response):

        async def middleware(request):
            with there():
                return await get_response(request)

    else:

        def middleware(request):
            with there():
                return get_response(request)

    return middleware


@sync_only_middleware
def look(get_response):
    """Read the headers before anybody else."""

    def middleware(request):
        assert request.headers is not None
        return get_response(request)

    return middleware


@sync_only_middleware
def allow_all(get_response):
    """Answer for CORS as django-cors-headers does with ``CORS_ALLOW_ALL_ORIGINS``."""

    def middleware(request):
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            response = HttpResponse()
            response["Access-Control-Allow-Methods"] = "DELETE, GET"
            response["Access-Control-Allow-Headers"] = "x-custom"
        else:
            response = get_response(request)
        response["Access-Control-Allow-Origin"] = "*"
        return response

    return middleware
