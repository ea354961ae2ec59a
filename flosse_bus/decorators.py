"""``@sse_stream``: a generator view becomes a stream."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, overload

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_cache_control

from . import greenlets
from .access import Refusal, ask_permissions
from .bus import buses
from .conf import DEFAULT_ALIAS
from .exceptions import TooManyOfOne, TooManyStreams
from .permissions import BaseSSEPermission, check_classes
from .refusals import answer, refuse
from .responses import SSEResponse
from .wire import CONTENT_TYPE, HEADERS

ViewT = TypeVar("ViewT", bound=Callable[..., Any])
View = Callable[..., Any]

NO_THREAD = "Too many open streams: MAX_STREAM_THREADS is reached."
NOT_ONE_MORE = "Too many open streams: MAX_STREAM_THREADS_PER_CLIENT is reached."


@overload
def sse_stream(view: ViewT, /) -> ViewT: ...


@overload
def sse_stream(
    *,
    retry: int | None = None,
    permission_classes: Sequence[type[BaseSSEPermission]] = (),
    heartbeat: float | None = None,
) -> Callable[[View], View]: ...


def sse_stream(
    view: View | None = None,
    /,
    *,
    retry: int | None = None,
    permission_classes: Sequence[type[BaseSSEPermission]] = (),
    heartbeat: float | None = None,
) -> View:
    """Stream what a view yields, as :func:`to_sse` takes it, on any server.

    The view is a generator function, sync or async; used with and without parentheses. It may
    also return a generator, or a response, which is sent as it is.

    ``retry``: milliseconds after which the browser reconnects, sent first. ``heartbeat``: seconds
    of silence after which a comment is sent. ``permission_classes``: all must allow, left to
    right; the first refusal is a 403.

    An exception becomes an event named ``error``, after what has been yielded before, with its
    text in DEBUG only. When the client has gone or the server stops the generator is closed.

    Raises:
        ImproperlyConfigured: an option that can never work.
    """
    if view is None:
        return lambda view: _decorated(view, retry, permission_classes, heartbeat)
    return _decorated(view, retry, permission_classes, heartbeat)


def _decorated(
    view: View,
    retry: int | None,
    permission_classes: Sequence[type[BaseSSEPermission]],
    heartbeat: float | None,
) -> View:
    if not callable(view):
        raise ImproperlyConfigured(f"@sse_stream: expected a view, not {view!r}.")
    label = getattr(view, "__qualname__", None) or repr(view)
    label = f"{getattr(view, '__module__', '?')}.{label}"
    check_options(f"@sse_stream on {label}", retry, heartbeat)
    check_classes(f"@sse_stream on {label}", permission_classes)

    def respond(request: HttpRequest, content: Any) -> HttpResponseBase:
        return stream(request, content, retry=retry, heartbeat=heartbeat, label=label)

    def permissions() -> list[BaseSSEPermission]:
        return [one() for one in permission_classes]

    wrapper: View
    # A generator is made without waiting. Django would need a loop to call a coroutine function
    # under WSGI, and among greenlets that loop is in the way of all other requests.
    coroutine = inspect.isasyncgenfunction(view) and not greenlets.are_threads()
    if coroutine or inspect.iscoroutinefunction(view):

        @wraps(view)
        async def awrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if permission_classes:
                refusal = await sync_to_async(ask_permissions)(request, permissions())
                if refusal is not None:
                    return refuse(refusal)
            content = view(request, *args, **kwargs)
            return respond(request, await content if inspect.isawaitable(content) else content)

        wrapper = awrapper
    else:

        @wraps(view)
        def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            refusal = ask_permissions(request, permissions())
            if refusal is not None:
                return refuse(refusal)
            return respond(request, view(request, *args, **kwargs))

    wrapper.is_event_stream = True  # type: ignore[attr-defined]  # because CORS asks
    return wrapper


def stream(
    request: HttpRequest, content: Any, *, retry: int | None, heartbeat: float | None, label: str
) -> HttpResponseBase:
    """Return the response that streams ``content``, or a refusal if there is no thread for it."""
    try:
        return open_stream(request, content, retry=retry, heartbeat=heartbeat, label=label)
    except TooManyStreams as error:
        return answer(request, no_thread(error, label), buses[DEFAULT_ALIAS].config)


def no_thread(error: TooManyStreams, label: str) -> Refusal:
    """Note that a generator view could not stream, and return how that is told."""
    buses[DEFAULT_ALIAS].hubs.notices.refused((label,), error)
    if isinstance(error, TooManyOfOne):
        return Refusal(status=429, detail=NOT_ONE_MORE, hint=str(error))
    return Refusal(status=503, detail=NO_THREAD, hint=str(error))


def open_stream(
    request: HttpRequest, content: Any, *, retry: int | None, heartbeat: float | None, label: str
) -> HttpResponseBase:
    """Return the response that streams ``content``.

    Raises:
        TooManyStreams: there is no thread for it.
        TypeError: it is nothing that can be streamed.
    """
    if isinstance(content, HttpResponseBase):
        return content
    if not (hasattr(content, "__aiter__") or hasattr(content, "__iter__")):
        raise TypeError(
            f"{label} returned {content!r}: expected a generator (does it yield?) or a response."
        )
    if request.method == "HEAD":
        response = HttpResponse(content_type=CONTENT_TYPE, headers=HEADERS)
        del response.headers["Content-Encoding"]
        # UpdateCacheMiddleware would keep it: it is no stream, and minds only "private".
        patch_cache_control(response, private=True)
        return response
    return SSEResponse(request, content, retry=retry, heartbeat=heartbeat, label=label)


def check_class(cls: type, initkwargs: dict[str, Any]) -> None:
    """Raise :exc:`ImproperlyConfigured` unless the view has one method that streams, and options
    that can work."""
    if hasattr(cls, "stream") == hasattr(cls, "astream"):
        raise ImproperlyConfigured(
            f"{cls.__name__} must define either stream() or astream(), and not both."
        )
    options = {name: initkwargs.get(name, getattr(cls, name)) for name in ("retry", "heartbeat")}
    check_options(cls.__name__, **options)


def check_options(where: str, retry: int | None, heartbeat: float | None) -> None:
    """Raise :exc:`ImproperlyConfigured` if they can never work."""
    if retry is not None and (isinstance(retry, bool) or not isinstance(retry, int) or retry < 0):
        raise ImproperlyConfigured(f"{where}: retry: expected milliseconds, not {retry!r}.")
    if heartbeat is not None and (
        isinstance(heartbeat, bool)
        or not isinstance(heartbeat, (int, float))
        or not 0 < heartbeat < float("inf")
    ):
        raise ImproperlyConfigured(
            f"{where}: heartbeat: expected a number of seconds above 0, not {heartbeat!r}."
        )
