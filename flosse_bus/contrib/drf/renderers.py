"""What may come instead of a stream: JSON, or a page of the browsable API with the stream in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from rest_framework.renderers import BaseRenderer, BrowsableAPIRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.settings import api_settings


class EventStreamRenderer(JSONRenderer):
    """Chosen for ``Accept: text/event-stream``, ``?format=sse`` and ``.sse``.

    A stream needs no renderer. What does is an error, or the answer to ``OPTIONS``: that becomes
    JSON, and says so in its Content-Type.
    """

    media_type = "text/event-stream"
    format = "sse"
    charset = "utf-8"

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> Any:
        context = renderer_context or {}
        response = context.get("response")
        # The page of the browsable API also asks, for what it shows.
        if response is not None and getattr(response, "accepted_renderer", None) is self:
            response.headers["Content-Type"] = JSONRenderer.media_type
        return super().render(data, JSONRenderer.media_type, dict(context))


class EventStreamBrowsableAPIRenderer(BrowsableAPIRenderer):
    """The page of an endpoint, in which a script shows the stream."""

    template = "flosse_bus/drf/api.html"

    def get_context(
        self, data: Any, accepted_media_type: str | None, renderer_context: Mapping[str, Any]
    ) -> dict[str, Any]:
        context = super().get_context(data, accepted_media_type, renderer_context)
        request, response = renderer_context["request"], renderer_context["response"]
        if data is None and request.method == "GET" and response.status_code == 200:
            suffix = renderer_context["view"].format_kwarg
            context["stream_url"] = stream_url(request, suffix)
        else:
            context["response_headers"]["Content-Type"] = JSONRenderer.media_type
        return context


def stream_url(request: Request, suffix: str | None) -> str:
    """Return where the stream of a page is: its own URL, without a format that asks for a page."""
    path: str = request.path
    if suffix:
        path = f"{path.rstrip('/').removesuffix(suffix)}{EventStreamRenderer.format}"
    query = request.query_params.copy()
    query.pop(api_settings.URL_FORMAT_OVERRIDE, None)
    return f"{path}?{query.urlencode()}" if query else path


def stream_renderers(
    defaults: Sequence[type[BaseRenderer]],
) -> list[type[EventStreamRenderer | EventStreamBrowsableAPIRenderer]]:
    """Return the renderers of streams in a project with these: no pages where it has none."""
    if any(issubclass(one, BrowsableAPIRenderer) for one in defaults):
        return [EventStreamRenderer, EventStreamBrowsableAPIRenderer]
    return [EventStreamRenderer]


#: For ``renderer_classes``.
RENDERERS = stream_renderers(cast(Any, api_settings.DEFAULT_RENDERER_CLASSES))
