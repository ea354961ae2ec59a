"""Whether a generator's stream may go on: its view is asked again, but not run.

What decides about such a stream is its view's permission classes, and what stands around the view:
``login_required`` and other decorators, mixins, ``dispatch()``. All of it is called again as by a
request that came now, up to the place where the generator would be made. Where that cannot be done
without running code of the view, the permission classes are asked; and in any case, who the client
is.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from .access import Rechecked, Refusal
from .exceptions import SSEPermissionDenied
from .identity import NOBODY, is_plainly_nobody, who
from .remembered import remember

logger = logging.getLogger("flosse_bus")

View = Callable[..., Any]
#: Asks permission classes.
Ask = Callable[[HttpRequest], "Refusal | None"]

_ATTRIBUTE = "_flosse_bus_question"
REFUSED = Refusal(status=403, detail="You may not read this stream.")


class Question:
    """Is on a request whose view is to say whether it would stream, and no more."""

    __slots__ = ("_answer",)

    def __init__(self) -> None:
        # What is around the view lets nobody through to it, until it does.
        self._answer: Refusal | None = REFUSED

    def answer(self, refusal: Refusal | None) -> HttpResponseBase:
        """Take what a view says, and return what it is to return."""
        self._answer = refusal
        # Of no interest to anybody, least of all to a cache around the view.
        return HttpResponse(status=204, headers={"Cache-Control": "private, no-store"})

    def put(self, view: View, request: HttpRequest) -> Refusal | None:
        """Ask a view. Sync code: it may use the ORM."""
        setattr(request, _ATTRIBUTE, self)
        match: Any = request.resolver_match
        try:
            response = view(request, *match.args, **match.kwargs)
            if inspect.isawaitable(response):
                response = async_to_sync(_wait_for)(response)
            response.close()
        except (PermissionDenied, SSEPermissionDenied, Http404):
            return REFUSED
        except Exception:
            # Fail closed, and only for the one who asked.
            logger.exception("%s failed: access refused", getattr(view, "__qualname__", view))
            return REFUSED
        return self._answer


def question_on(request: HttpRequest) -> Question | None:
    """Return the question that a request puts, if it is not there to have a stream."""
    return getattr(request, _ATTRIBUTE, None)


class ViewAccess(Rechecked):
    """The permission to read what a view yields, which it has just given."""

    __slots__ = ("_ask", "_view", "_who")

    def __init__(
        self, request: HttpRequest, *, view: View | None, ask: Ask, recheck_every: float
    ) -> None:
        super().__init__(recheck_every)
        self._who = who(request)
        self._view = view
        self._ask = ask
        self._kept = remember(request)

    @property
    def known(self) -> bool:
        """Is anything known of the client that may change?"""
        return self._who != NOBODY

    def _check(self, request: HttpRequest) -> Refusal | None:
        if who(request) != self._who:
            return REFUSED
        match = request.resolver_match
        if self._view is None or match is None or match.func is not self._view:
            return self._ask(request)
        return Question().put(self._view, request)


def watch_over(
    request: HttpRequest, ask: Ask, *, asks: bool, leads_here: Callable[[View], bool], every: float
) -> ViewAccess | None:
    """Return whom to ask again about a stream that a view allows; ``None`` if that is no use.

    ``asks``: has it permission classes? ``leads_here``: does a view of the URLs call this one, with
    nothing but decorators in between? Sync code: it may use the ORM.
    """
    if not asks and is_plainly_nobody(request):
        return None
    match = request.resolver_match
    view = match.func if match is not None and request.method == "GET" else None
    if view is not None and not leads_here(view):
        view = None
    access = ViewAccess(request, view=view, ask=ask, recheck_every=every)
    return access if asks or access.known else None


def unwraps_to(view: View | None, other: View) -> bool:
    """Does ``functools.wraps()`` lead from one view to the other?"""
    while view is not None and view is not other:
        view = getattr(view, "__wrapped__", None)
    return view is not None


async def _wait_for(answer: Any) -> Any:
    return await answer
