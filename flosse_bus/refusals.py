"""How a refusal is answered: a status, and JSON ``{"detail", "topics"}``; or a stream of one block.

An ``EventSource`` that is answered with any other status than 200 never comes back. So where the
trouble is temporary and the client accepts nothing but a stream, the refusal is one.
"""

from __future__ import annotations

import json
import math
from typing import Any, cast

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.cache import patch_cache_control

from .access import Refusal
from .conf import BusConfig
from .details import SSEDetails, accepts_only_streams
from .events import ERROR
from .wire import CONTENT_TYPE, HEADERS, encode, jittered

UNREACHABLE = "The event bus is not reachable."
#: What the client can do about it is to come back later.
TEMPORARY = (429, 503)
#: Seconds after which clients with a mind of their own shall try again.
RETRY_AFTER = 5
_CODES = {403: "forbidden", 429: "limited", 503: "unavailable"}


def answer(request: HttpRequest, refusal: Refusal, config: BusConfig) -> HttpResponse:
    """Return the response that this request's client can make something of."""
    if is_told_in_stream(request, refusal.status):
        return refuse_in_stream(request, refusal, config)
    return refuse(refusal)


def is_told_in_stream(request: HttpRequest, status: int) -> bool:
    """Return whether a refusal with this status must be a stream, for its client to come back."""
    return status in TEMPORARY and request.method == "GET" and accepts_only_streams(request.META)


def refuse(refusal: Refusal) -> JsonResponse:
    """Return the response with its status, and with a hint for the developer in DEBUG."""
    body: dict[str, Any] = {"detail": refusal.detail, "topics": list(refusal.topics)}
    if settings.DEBUG and refusal.hint:
        body["hint"] = refusal.hint
    response = JsonResponse(body, status=refusal.status)
    response.headers["Cache-Control"] = "no-store"
    if refusal.status in TEMPORARY:
        response.headers["Retry-After"] = str(RETRY_AFTER)
        keep_from_admins(response)
    return response


def refuse_in_stream(
    request: HttpRequest, refusal: Refusal, config: BusConfig, *, wait: float = 0
) -> HttpResponse:
    """Return a stream of one block, after which the client comes back where it was.

    ``wait``: seconds before which it need not try, where they are known.
    """
    id = SSEDetails(request.META).last_event_id
    retry = jittered(max(config.retry, math.ceil(wait * 1000)))
    block = encode_refusal(refusal, id=id, retry=retry)
    response = HttpResponse(block, content_type=CONTENT_TYPE, headers=HEADERS)
    # It is a 200, which UpdateCacheMiddleware keeps for everybody: of these directives that of
    # Django 4.2 minds only "private".
    patch_cache_control(response, private=True, no_store=True)
    return response


def encode_refusal(refusal: Refusal, *, id: str | None = None, retry: int | None = None) -> bytes:
    """Return the ``stream-error`` block that tells of a refusal."""
    data = {"code": _CODES[refusal.status], "detail": refusal.detail}
    return encode(json.dumps(data).encode(), event=ERROR, id=id, retry=retry)


def keep_from_admins(response: HttpResponse) -> None:
    """Keep Django from logging a refusal, which by default it mails to the ADMINS if it is a 503.

    It would do so for each client that comes while a broker is away. What there is to say is
    logged by ``flosse_bus``.
    """
    cast(Any, response)._has_been_logged = True  # see django.utils.log.log_response()
