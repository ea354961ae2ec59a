"""``@event_stream_action``: a viewset's action that streams."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.http.response import HttpResponseBase
from rest_framework.decorators import action
from rest_framework.request import Request

from ...decorators import check_options
from .renderers import RENDERERS
from .streams import EventStreamMixin

Method = Callable[..., Any]


def event_stream_action(
    *,
    detail: bool,
    retry: int | None = None,
    heartbeat: float | None = None,
    recheck_every: float | None = None,
    **kwargs: Any,
) -> Callable[[Method], Method]:
    """Make a method that streams an action of its viewset, which has :class:`EventStreamMixin`.

    The method yields or returns what ``EventStreamAPIView.stream()`` does. ``retry``,
    ``heartbeat`` and ``recheck_every`` are those of ``@sse_stream``, the last for what it yields;
    the rest goes to ``@action``.

    Raises:
        ImproperlyConfigured: an option that can never work.
    """

    def decorate(method: Method) -> Method:
        label = f"{method.__module__}.{method.__qualname__}"
        check_options(f"@event_stream_action on {label}", retry, heartbeat, recheck_every)

        @wraps(method)
        def handler(view: Any, request: Request, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if not isinstance(view, EventStreamMixin):
                raise ImproperlyConfigured(
                    f"{type(view).__qualname__}: {label} streams: put EventStreamMixin in front "
                    "of the other bases."
                )
            return view.event_stream(
                request,
                method,
                retry=retry,
                heartbeat=heartbeat,
                recheck_every=recheck_every,
                label=label,
            )

        handler.is_event_stream = True  # type: ignore[attr-defined]  # because CORS and the schema ask
        made: Method = action(
            methods=["get"], detail=detail, **{"renderer_classes": RENDERERS, **kwargs}
        )(handler)
        return made

    return decorate
