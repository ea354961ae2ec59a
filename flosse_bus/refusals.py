"""How a refusal is answered: a status, and JSON ``{"detail", "topics"}``."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import JsonResponse

from .access import Refusal

UNREACHABLE = "The event bus is not reachable."


def refuse(refusal: Refusal) -> JsonResponse:
    """Return the response, with a hint for the developer in DEBUG."""
    body: dict[str, Any] = {"detail": refusal.detail, "topics": list(refusal.topics)}
    if settings.DEBUG and refusal.hint:
        body["hint"] = refusal.hint
    response = JsonResponse(body, status=refusal.status)
    response.headers["Cache-Control"] = "no-store"
    if refusal.status == 503:
        response.headers["Retry-After"] = "5"
    return response
