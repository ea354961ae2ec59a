"""A request as it would be if it came now, made of as little of the first one as that takes.

A stream is open for days, and its permission is asked for again and again. The request that opened
it would be most of what it holds in memory.
"""

from __future__ import annotations

import copy
import io
from typing import Any, cast

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest
from django.urls import Resolver404, resolve
from django.utils.functional import SimpleLazyObject

#: What Django derives from the rest, or reads anew. Some of it refers back to the request.
_DERIVED = frozenset(
    {"session", "user", "auser", "_cached_user", "_acached_user", "resolver_match", "_messages"}
    | {"GET", "COOKIES", "headers", "accepted_types", "_stream", "_body", "_post", "_files"}
)
_PLAIN = (str, bytes, int, float, bool, dict, list)


class Remembered:
    """What cannot be had from the ASGI scope, which the server keeps anyway."""

    __slots__ = ("_attributes", "_class", "_meta", "_of_session", "_scope", "_session")

    def __init__(self, request: ASGIRequest) -> None:
        self._scope = request.scope
        self._class = type(request)
        session = getattr(request, "session", None)
        self._of_session = _is_of_session(request)
        self._session = None if session is None else (type(session), session.session_key)
        fresh = self._fresh()
        derived = _DERIVED if self._of_session else _DERIVED - {"user", "auser"}
        self._meta = {
            key: value
            for key, value in request.META.items()
            if key not in fresh.META or fresh.META[key] != value
        }
        self._attributes = {
            name: value
            for name, value in vars(request).items()
            if name != "META" and name not in derived and not _same(vars(fresh), name, value)
        }

    def _fresh(self) -> ASGIRequest:
        return self._class(self._scope, io.BytesIO())

    def request(self) -> HttpRequest:
        """Make the request again, with session and user read anew."""
        request = self._fresh()
        request.META.update(self._meta)
        vars(request).update(self._attributes)
        try:
            request.resolver_match = resolve(request.path_info, getattr(request, "urlconf", None))
        except Resolver404:  # the URLs have changed, or middleware has changed the path
            request.resolver_match = None
        if self._session is not None:
            store, key = self._session
            request.session = store(key)
        if self._of_session:
            _read_user(request)
        return request


def remember(request: HttpRequest) -> Remembered | HttpRequest:
    """Return what is to be kept of a request."""
    return Remembered(request) if isinstance(request, ASGIRequest) else request


def again(kept: Remembered | HttpRequest) -> HttpRequest:
    """Return the request as it would be if it came now. Sync code: it may use the ORM."""
    if isinstance(kept, Remembered):
        return kept.request()
    session = getattr(kept, "session", None)
    if session is None or session.session_key is None:
        return kept
    request = copy.copy(kept)
    request.session = type(session)(session.session_key)
    if _is_of_session(kept):
        _read_user(request)
    return request


def _is_of_session(request: HttpRequest) -> bool:
    """Did the user come by this session, and not by a token or the like?"""
    session, user = getattr(request, "session", None), getattr(request, "user", None)
    if session is None or session.session_key is None or user is None:
        return False
    return bool(session.get("_auth_user_id") == str(user.pk))


def _read_user(request: HttpRequest) -> None:
    user = SimpleLazyObject(lambda: get_user(request))
    request.user = cast(Any, user)

    async def auser() -> Any:
        await sync_to_async(bool)(user)
        return user

    request.auser = auser


def _same(attributes: dict[str, Any], name: str, value: object) -> bool:
    if name not in attributes:
        return False
    fresh = attributes[name]
    simple = (str, bytes, int, float, type(None), dict, list)
    return fresh is value or (
        type(fresh) in simple and type(fresh) is type(value) and fresh == value
    )
