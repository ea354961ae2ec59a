"""What a request says about streams: does it ask for one, and from where on? Values, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.http import QueryDict

EVENT_STREAM = "text/event-stream"
#: Bytes of UTF-8. Ids of buses are far shorter; those of generator views are their authors'.
MAX_ID_SIZE = 1024
#: Query parameters that may hold the last event id. Polyfills cannot send the header and append one
#: of the first four to a page's own URL, which may have the last in it from the time it was made.
PARAMETERS = ("lastEventId", "lastEventID", "last-event-id", "Last-Event-ID", "last_event_id")


class SSEDetails:
    """``request.sse``, which :class:`BusMiddleware` sets. Nothing is read before it is used."""

    __slots__ = ("_last_event_id", "_meta")

    def __init__(self, meta: Mapping[str, Any]) -> None:
        self._meta = meta  # the request itself would be a reference cycle

    def __repr__(self) -> str:
        return f"<SSEDetails accepted={self.accepted} last_event_id={self.last_event_id!r}>"

    @property
    def accepted(self) -> bool:
        """Does ``Accept`` name ``text/event-stream``? ``*/*`` alone does not."""
        return accepts_stream(self._meta)

    @property
    def last_event_id(self) -> str | None:
        """Where the client wants to resume: the ``Last-Event-ID`` header, else the query.

        ``None`` also for what cannot be an id: above 1024 bytes, not UTF-8, with NUL, CR or LF.
        """
        try:
            return self._last_event_id
        except AttributeError:
            position = resume_position(self._meta, QueryDict(self._meta.get("QUERY_STRING", "")))
            usable = position is not None and is_id(position)
            self._last_event_id: str | None = position if usable else None
            return self._last_event_id


def accepts_stream(meta: Mapping[str, Any]) -> bool:
    """Return whether ``Accept`` names the type of event streams, and not with ``q=0``."""
    accept = meta.get("HTTP_ACCEPT", "").lower()
    if EVENT_STREAM not in accept:  # the many requests that do not ask cost no more than this
        return False
    for media_range in accept.split(","):
        name, *params = (part.strip() for part in media_range.split(";"))
        if name == EVENT_STREAM and _quality(params) > 0:
            return True
    return False


def accepts_only_streams(meta: Mapping[str, Any]) -> bool:
    """Return whether ``Accept`` names event streams and nothing else, as that of an EventSource.

    Such a client can make nothing of any other answer, and never asks again after one.
    """
    names = [part.partition(";")[0].strip() for part in meta.get("HTTP_ACCEPT", "").split(",")]
    return accepts_stream(meta) and all(name.lower() in ("", EVENT_STREAM) for name in names)


def resume_position(meta: Mapping[str, Any], query: QueryDict) -> str | None:
    """Return what the client gives as its last event id, or ``None`` if it gives none.

    The ``Last-Event-ID`` header, else the first of :data:`PARAMETERS` that says something. It may
    be anything, and of any length. What is not UTF-8 has U+FFFD in it, as Django does it for a
    query.
    """
    header = meta.get("HTTP_LAST_EVENT_ID", "")
    try:
        # Browsers send UTF-8 (WHATWG HTML, 9.2.3), Django gives every header as Latin-1.
        header = header.encode("latin-1").decode(errors="replace")
    except UnicodeEncodeError:
        header = "\ufffd"  # a test's: no server can have received it
    given = (header, *(query.get(name, "") for name in PARAMETERS))
    return next(filter(None, (text.strip(" \t") for text in given)), None)


def _quality(params: list[str]) -> float:
    """Return what ``q=`` says. Like Django, take what is no number for 1."""
    try:
        return float(next((param[2:] for param in params if param.startswith("q=")), 1))
    except ValueError:
        return 1


def is_id(text: str) -> bool:
    """Can this be a last event id, or be sent as one?"""
    return len(text.encode(errors="replace")) <= MAX_ID_SIZE and not set(text) & set("\0\r\n\ufffd")
