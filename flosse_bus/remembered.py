"""A request as it would be if it came now, made of as little of the first one as that takes.

A stream is open for days, and its permission is asked for again and again. The request that opened
it would be most of what it holds in memory.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest
from django.urls import Resolver404, resolve

from .identity import Identity, identify

#: What Django derives from the rest, or reads anew. Some of it refers back to the request.
_DERIVED = frozenset(
    {"session", "user", "auser", "_cached_user", "_acached_user", "resolver_match", "_messages"}
    | {"GET", "COOKIES", "headers", "accepted_types", "_stream", "_body", "_post", "_files"}
)
#: What a user leaves behind on a request, and must not be found on the one that is made of it.
_OF_USER = ("_cached_user", "_acached_user")


class Remembered(ABC):
    """What is needed to make a request again, with session and user read anew."""

    __slots__ = ("_identity", "_session")

    _identity: Identity | None
    _session: tuple[type, str | None] | None

    def __init__(self, request: HttpRequest) -> None:
        session = getattr(request, "session", None)
        self._identity = identify(request)
        self._session = None if session is None else (type(session), session.session_key)

    def request(self) -> HttpRequest:
        """Make the request again. Sync code: it may use the ORM."""
        request = self._made()
        if self._session is not None:
            store, key = self._session
            request.session = store(key)
        if self._identity is not None:
            self._identity.give(request)
        return request

    @abstractmethod
    def _made(self) -> HttpRequest:
        """Return the request, without session and user."""


class FromScope(Remembered):
    """What cannot be had from the ASGI scope, which the server keeps anyway."""

    __slots__ = ("_attributes", "_class", "_meta", "_scope")

    def __init__(self, request: ASGIRequest) -> None:
        super().__init__(request)
        self._scope = request.scope
        self._class = type(request)
        fresh = self._fresh()
        self._meta = {
            key: value
            for key, value in request.META.items()
            if key not in fresh.META or fresh.META[key] != value
        }
        self._attributes = {
            name: value
            for name, value in vars(request).items()
            if name != "META" and name not in _DERIVED and not _same(vars(fresh), name, value)
        }

    def _fresh(self) -> ASGIRequest:
        return self._class(self._scope, io.BytesIO())

    def _made(self) -> HttpRequest:
        request = self._fresh()
        request.META.update(self._meta)
        vars(request).update(self._attributes)
        try:
            request.resolver_match = resolve(request.path_info, getattr(request, "urlconf", None))
        except Resolver404:  # the URLs have changed, or middleware has changed the path
            request.resolver_match = None
        return request


class Itself(Remembered):
    """The request, which is kept for as long as the stream anyway: under WSGI, and where it has a
    body that the stream may yet read."""

    __slots__ = ("_request",)

    def __init__(self, request: HttpRequest) -> None:
        super().__init__(request)
        self._request = request

    def _made(self) -> HttpRequest:
        # Whatever is put on to the copy is gone with it.
        copy = type(self._request).__new__(type(self._request))
        vars(copy).update(vars(self._request))
        for name in _OF_USER:
            vars(copy).pop(name, None)
        return copy


def remember(request: HttpRequest) -> Remembered:
    """Return what is to be kept of a request. Sync code: it may use the ORM."""
    if isinstance(request, ASGIRequest) and request.method in ("GET", "HEAD"):
        return FromScope(request)
    return Itself(request)


def again(kept: Remembered) -> HttpRequest:
    """Return the request as it would be if it came now. Sync code: it may use the ORM."""
    return kept.request()


def _same(attributes: dict[str, Any], name: str, value: object) -> bool:
    if name not in attributes:
        return False
    fresh = attributes[name]
    simple = (str, bytes, int, float, type(None), dict, list)
    return fresh is value or (
        type(fresh) in simple and type(fresh) is type(value) and fresh == value
    )
