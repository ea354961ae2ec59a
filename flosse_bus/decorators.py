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
from .access import Rechecked, Refusal, ask_permissions, check_recheck
from .asking import REFUSED, ViewAccess, question_on, unwraps_to, watch_over
from .bus import buses
from .conf import DEFAULT_ALIAS
from .exceptions import TooManyOfOne, TooManyStreams
from .identity import is_plainly_nobody
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
    recheck_every: float | None = None,
) -> Callable[[View], View]: ...


def sse_stream(
    view: View | None = None,
    /,
    *,
    retry: int | None = None,
    permission_classes: Sequence[type[BaseSSEPermission]] = (),
    heartbeat: float | None = None,
    recheck_every: float | None = None,
) -> View:
    """Stream what a view yields, as :func:`to_sse` takes it, on any server.

    The view is a generator function, sync or async; used with and without parentheses. It may
    also return a generator, or a response, which is sent as it is.

    ``retry``: milliseconds after which the browser reconnects, sent first. ``heartbeat``: seconds
    of silence after which a comment is sent. ``permission_classes``: all must allow, left to
    right; the first refusal is a 403. ``recheck_every``: seconds after which it is checked again
    whether the open stream may go on; ``None`` is RECHECK_EVERY.

    An exception becomes an event named ``error``, after what has been yielded before, with its
    text in DEBUG only. When the client has gone or the server stops the generator is closed.

    Raises:
        ImproperlyConfigured: an option that can never work.
    """
    if view is None:
        return lambda view: _decorated(view, retry, permission_classes, heartbeat, recheck_every)
    return _decorated(view, retry, permission_classes, heartbeat, recheck_every)


def _decorated(
    view: View,
    retry: int | None,
    permission_classes: Sequence[type[BaseSSEPermission]],
    heartbeat: float | None,
    recheck_every: float | None,
) -> View:
    if not callable(view):
        raise ImproperlyConfigured(f"@sse_stream: expected a view, not {view!r}.")
    label = getattr(view, "__qualname__", None) or repr(view)
    label = f"{getattr(view, '__module__', '?')}.{label}"
    check_options(f"@sse_stream on {label}", retry, heartbeat, recheck_every)
    check_classes(f"@sse_stream on {label}", permission_classes)

    def respond(request: HttpRequest, content: Any, access: ViewAccess | None) -> HttpResponseBase:
        return stream(
            request, content, retry=retry, heartbeat=heartbeat, label=label, access=access
        )

    def ask(request: HttpRequest) -> Refusal | None:
        return ask_permissions(request, [one() for one in permission_classes])

    def watched(request: HttpRequest) -> ViewAccess | None:
        return watch_over(
            request,
            ask,
            asks=bool(permission_classes),
            leads_here=lambda other: unwraps_to(other, wrapper),
            every=seconds_between(recheck_every),
        )

    # Decorators below this one are asked again by calling them, if that runs nothing of the view.
    inner = inspect.unwrap(view)
    asks_below = inner is not view and (
        inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner)
    )
    wrapper: View
    # A generator is made without waiting. Django would need a loop to call a coroutine function
    # under WSGI, and among greenlets that loop is in the way of all other requests.
    coroutine = inspect.isasyncgenfunction(view) and not greenlets.are_threads()
    if coroutine or inspect.iscoroutinefunction(view):

        @wraps(view)
        async def awrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            question = question_on(request)
            refusal = await sync_to_async(ask)(request) if permission_classes else None
            if question is not None and (refusal is not None or not asks_below):
                return question.answer(refusal)
            if refusal is not None:
                return refuse(refusal)
            content = view(request, *args, **kwargs)
            if inspect.isawaitable(content):
                content = await content
            if question is not None:
                return question.answer(_refusal_of(content))
            access = None
            if is_watched(request, content, asks=bool(permission_classes)):
                access = await sync_to_async(watched)(request)
            return respond(request, content, access)

        wrapper = awrapper
    else:

        @wraps(view)
        def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            question = question_on(request)
            refusal = ask(request)
            if question is not None and (refusal is not None or not asks_below):
                return question.answer(refusal)
            if refusal is not None:
                return refuse(refusal)
            content = view(request, *args, **kwargs)
            if question is not None:
                return question.answer(_refusal_of(content))
            access = None
            if is_watched(request, content, asks=bool(permission_classes)):
                access = watched(request)
            return respond(request, content, access)

    wrapper.is_event_stream = True  # type: ignore[attr-defined]  # because CORS asks
    return wrapper


def is_watched(request: HttpRequest, content: Any, *, asks: bool) -> bool:
    """Is it worth finding out who may read what a view has returned?"""
    if isinstance(content, HttpResponseBase) or request.method == "HEAD":
        return False
    return asks or not is_plainly_nobody(request)


def seconds_between(recheck_every: float | None) -> float:
    """Return the seconds between two checks of a generator's stream."""
    every = buses[DEFAULT_ALIAS].config.recheck_every
    return every if recheck_every is None else recheck_every


def _refusal_of(content: Any) -> Refusal | None:
    """Return what follows from what a view returns that was called to ask it only."""
    return REFUSED if isinstance(content, HttpResponseBase) else None


def stream(
    request: HttpRequest,
    content: Any,
    *,
    retry: int | None,
    heartbeat: float | None,
    label: str,
    access: Rechecked | None,
) -> HttpResponseBase:
    """Return the response that streams ``content``, or a refusal if there is no thread for it."""
    try:
        return open_stream(
            request, content, retry=retry, heartbeat=heartbeat, label=label, access=access
        )
    except TooManyStreams as error:
        return answer(request, no_thread(error, label), buses[DEFAULT_ALIAS].config)


def no_thread(error: TooManyStreams, label: str) -> Refusal:
    """Note that a generator view could not stream, and return how that is told."""
    buses[DEFAULT_ALIAS].hubs.notices.refused((label,), error)
    if isinstance(error, TooManyOfOne):
        return Refusal(status=429, detail=NOT_ONE_MORE, hint=str(error))
    return Refusal(status=503, detail=NO_THREAD, hint=str(error))


def open_stream(
    request: HttpRequest,
    content: Any,
    *,
    retry: int | None,
    heartbeat: float | None,
    label: str,
    access: Rechecked | None,
) -> HttpResponseBase:
    """Return the response that streams ``content``. ``access``: whom to ask while it does.

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
    return SSEResponse(
        request, content, retry=retry, heartbeat=heartbeat, label=label, access=access
    )


def check_class(cls: type, initkwargs: dict[str, Any]) -> None:
    """Raise :exc:`ImproperlyConfigured` unless the view has one method that streams, and options
    that can work."""
    if hasattr(cls, "stream") == hasattr(cls, "astream"):
        raise ImproperlyConfigured(
            f"{cls.__name__} must define either stream() or astream(), and not both."
        )
    names = ("retry", "heartbeat", "recheck_every")
    options = {name: initkwargs.get(name, getattr(cls, name)) for name in names}
    check_options(cls.__name__, **options)


def check_options(
    where: str, retry: int | None, heartbeat: float | None, recheck_every: float | None
) -> None:
    """Raise :exc:`ImproperlyConfigured` if they can never work."""
    check_recheck(where, recheck_every)
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
