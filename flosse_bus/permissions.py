"""Permission classes for views: all must allow, left to right, the first refusal ends it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest


class BaseSSEPermission:
    """Override :meth:`has_permission`; it may be a coroutine function and may use the ORM."""

    def has_permission(self, request: HttpRequest) -> bool | Awaitable[bool]:
        return True


class AllowAny(BaseSSEPermission):
    """Everyone."""


class IsAuthenticated(BaseSSEPermission):
    """Whoever is logged in."""

    def has_permission(self, request: HttpRequest) -> bool:
        user = getattr(request, "user", None)
        return bool(user and user.is_authenticated)


class IsAdminUser(BaseSSEPermission):
    """Logged-in staff."""

    def has_permission(self, request: HttpRequest) -> bool:
        user = getattr(request, "user", None)
        return bool(user and user.is_authenticated and user.is_staff)


def check_classes(where: str, classes: Any) -> None:
    """Raise :exc:`ImproperlyConfigured` unless these are permission classes."""
    if not isinstance(classes, (list, tuple)) or not all(
        isinstance(one, type) and hasattr(one, "has_permission") for one in classes
    ):
        raise ImproperlyConfigured(
            f"{where}: permission_classes: expected a list of classes, not {classes!r}."
        )
