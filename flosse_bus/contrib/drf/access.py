"""Who may go on reading: the view is asked again, as if the request came now."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.views import APIView

from ...access import Access, Rechecked, Refusal
from ...asking import REFUSED
from ...conf import BusConfig
from ...remembered import remember
from .topics import Topics

logger = logging.getLogger("flosse_bus")

#: ``produce(view, request, ...)``: the method that streams.
Produce = Callable[..., Any]


class Guard:
    """Asks a view again: authentication, permissions, and the method that names the topics.

    Of the view only what its URL has given it is kept: a stream keeps no request.
    """

    __slots__ = ("_args", "_class", "_given", "_kwargs", "_produce", "_topics")

    def __init__(
        self, view: APIView, produce: Produce | None = None, topics: Topics | None = None
    ) -> None:
        self._class = type(view)
        self._given = {
            name: value
            for name, value in vars(view).items()
            # What as_view() takes are attributes of the class.
            if hasattr(self._class, name) or name == "action_map"
        }
        self._args = view.args
        self._kwargs = view.kwargs
        self._produce = produce
        self._topics = topics

    def ask(self, request: HttpRequest) -> Refusal | None:
        """Ask for a request of Django's. It has the authenticated user afterwards."""
        view = self._class(**self._given)
        view.setup(request, *self._args, **self._kwargs)
        # The stream is open, and this is no request of the client's.
        vars(view)["check_throttles"] = lambda request: None
        asked = view.request = view.initialize_request(request, *self._args, **self._kwargs)
        view.headers = view.default_response_headers
        try:
            view.initial(asked, *self._args, **self._kwargs)
            # A generator's method is not called: who knows what it does before it yields.
            topics = self._produce and self._produce(view, asked, *self._args, **self._kwargs)
        except (APIException, Http404, PermissionDenied):
            return REFUSED
        except Exception:
            # Fail closed, and only for the one who asked.
            logger.exception("%s failed: access refused", self._class.__qualname__)
            return REFUSED
        if topics != self._topics:
            return REFUSED
        return None


class APIAccess(Access):
    """Access to topics that a view has named and its permission classes have just allowed.

    Where the client has named them (not ``trusted``), public topics and authorisers decide too.
    """

    __slots__ = ("_came_with", "_guard")

    def __init__(
        self,
        config: BusConfig,
        names: tuple[str, ...],
        *,
        guard: Guard,
        came_with: dict[str, Any],
        trusted: bool,
        recheck_every: float | None,
    ) -> None:
        super().__init__(config, names, trusted=trusted, recheck_every=recheck_every)
        self._guard = guard
        self._came_with = came_with
        self.always = False

    def check(self, request: HttpRequest) -> Refusal | None:
        refusal = self._ask_authorisers(request)
        if refusal is None:
            self._kept = remember(_as_it_came(request, self._came_with))
        self._came_with = {}
        return refusal

    def _check(self, request: HttpRequest) -> Refusal | None:
        return self._guard.ask(request) or self._ask_authorisers(request)

    def _ask_authorisers(self, request: HttpRequest) -> Refusal | None:
        return None if self._trusted else super()._check(request)


class GeneratedAccess(Rechecked):
    """Access to what a view yields, whose permission classes have just allowed it."""

    __slots__ = ("_guard", "_user")

    def __init__(
        self, request: Request, *, guard: Guard, came_with: dict[str, Any], recheck_every: float
    ) -> None:
        super().__init__(recheck_every)
        self._guard = guard
        self._user = _key(request.user)
        self._kept = remember(_as_it_came(request._request, came_with))

    def _check(self, request: HttpRequest) -> Refusal | None:
        # What is yielded may be somebody's own, whoever else may ask for it.
        refusal = self._guard.ask(request)
        return refusal or (None if _key(request.user) == self._user else REFUSED)


def _key(user: Any) -> object:
    return getattr(user, "pk", None)


def _as_it_came(request: HttpRequest, came_with: dict[str, Any]) -> HttpRequest:
    """Return a copy with the user of the middleware, not of the API."""
    copy = _copy(request)
    for name in ("user", "auser"):
        vars(copy).pop(name, None)
    vars(copy).update(came_with)
    return copy


def _copy(request: HttpRequest) -> HttpRequest:
    copy = type(request).__new__(type(request))
    vars(copy).update(vars(request))
    return copy
