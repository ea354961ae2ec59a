"""How a refusal is answered: a status, and JSON ``{"detail", "topics"}``."""

from __future__ import annotations

from typing import Any, cast

from django.conf import settings
from django.http import HttpResponse, JsonResponse

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
        keep_from_admins(response)
    return response


def keep_from_admins(response: HttpResponse) -> None:
    """Keep Django from logging a 503 as an error, which by default it mails to the ADMINS.

    It would do so for each client that comes while a broker is away. What there is to say is
    logged by ``flosse_bus``.
    """
    cast(Any, response)._has_been_logged = True  # see django.utils.log.log_response()
