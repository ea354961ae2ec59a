"""What drf-spectacular says of streams, in a project that uses it."""

from __future__ import annotations

from typing import Any

from rest_framework.settings import api_settings

_DETAIL = {
    "type": "object",
    "properties": {"detail": {"type": "string"}},
    "required": ["detail"],
}
_REFUSALS = {
    401: "Not authenticated.",
    403: "Not allowed.",
    429: "Too many requests, or too many open streams.",
    503: "No stream can be opened at present.",
}


def event_stream_schema() -> Any:
    """Return a schema for views that stream, or ``None``. Imports nothing that is not in use."""
    base: Any = api_settings.DEFAULT_SCHEMA_CLASS
    if not any(one.__module__.startswith("drf_spectacular.") for one in base.__mro__):
        return None
    from drf_spectacular.types import OpenApiTypes
    from drf_spectacular.utils import OpenApiParameter, OpenApiResponse

    responses: dict[Any, Any] = {
        (200, "text/event-stream"): OpenApiResponse(
            OpenApiTypes.STR, description="Server-sent events, for as long as the client stays."
        )
    }
    for status, description in _REFUSALS.items():
        responses[(status, "application/json")] = OpenApiResponse(_DETAIL, description=description)
    last_event_id = OpenApiParameter(
        "Last-Event-ID",
        OpenApiTypes.STR,
        OpenApiParameter.HEADER,
        description="The id of the last event that was received: where to go on.",
    )

    class EventStreamSchema(base):  # type: ignore[misc]  # because it is the project's own
        """Describes what streams, and leaves the rest of a viewset to the project's."""

        def get_response_serializers(self) -> Any:
            return responses if self._streams() else super().get_response_serializers()

        def get_override_parameters(self) -> list[Any]:
            parameters: list[Any] = super().get_override_parameters()
            return [*parameters, last_event_id] if self._streams() else parameters

        def _streams(self) -> bool:
            name = getattr(self.view, "action", None) or self.method.lower()
            return getattr(getattr(self.view, name, None), "is_event_stream", False)

    return EventStreamSchema()
