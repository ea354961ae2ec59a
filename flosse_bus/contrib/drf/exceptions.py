"""Why no stream was opened, as exceptions that REST framework answers."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from rest_framework import status
from rest_framework.exceptions import APIException

from ...access import Refusal
from ...refusals import RETRY_AFTER, TEMPORARY

_CODES = {
    status.HTTP_400_BAD_REQUEST: "invalid",
    status.HTTP_403_FORBIDDEN: "permission_denied",
    status.HTTP_429_TOO_MANY_REQUESTS: "throttled",
    status.HTTP_503_SERVICE_UNAVAILABLE: "service_unavailable",
}


class StreamRefused(APIException):
    """``{"detail"}``, with ``topics`` where the refusal is about some, and a hint in DEBUG.

    ``bus``: the alias of the one that the stream would have been of, if it is known.
    """

    def __init__(self, refusal: Refusal, *, bus: str | None = None) -> None:
        detail: dict[str, Any] = {"detail": refusal.detail}
        if refusal.topics:
            detail["topics"] = list(refusal.topics)
        if settings.DEBUG and refusal.hint:
            detail["hint"] = refusal.hint
        super().__init__(detail, _CODES[refusal.status])
        self.status_code = refusal.status
        self.refusal = refusal
        self.bus = bus
        if refusal.status in TEMPORARY:
            self.wait = RETRY_AFTER  # becomes a header
