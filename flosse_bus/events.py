"""What is published: as the caller sees it (``Event``) and as the log keeps it (``Record``)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from .cursor import Cursor
from .exceptions import EventTooLarge, InvalidEvent

#: Names that the stream itself uses. All that begin with RESERVED are kept for it.
RESERVED = "stream-"
OPEN = "stream-open"
PING = "stream-ping"
RESET = "stream-reset"
ERROR = "stream-error"
#: Those that only say how the stream stands, beside its events.
STATE = (OPEN, PING)
#: An event of either name would call a page's ``onopen`` or ``onerror``.
_HANDLERS = ("open", "error")

#: What would end the line that a name stands in, or lie about the stream itself.
_UNNAMEABLE = re.compile(r"[\r\n\0]|^stream-|^$")

# ensure_ascii=False halves non-Latin payloads. allow_nan=False because NaN is no JSON: JSON.parse
# in the browser would throw on it.
_encode_json = DjangoJSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=True
).encode
_encode_ascii = DjangoJSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of a topic.

    ``data`` is what JSON made of the published value (a ``str`` stays as it is), ``event`` its
    name or ``None``, ``id`` an opaque cursor that resumes a stream after this event, and
    ``published_at`` an aware UTC datetime.
    """

    topic: str
    data: Any
    event: str | None
    id: str
    published_at: datetime


# Drafts and records are not to be changed either. To freeze them would make each twice as slow to
# create, which for publish_many is a fifth of its time here.
@dataclass(slots=True, kw_only=True)
class Draft:
    """A checked and encoded event that has no position yet. ``body`` is UTF-8.

    ``text`` tells raw text (published as a ``str``) from JSON. While a backend keeps ``key`` it
    appends no other event with it.
    """

    topic: str
    event: str | None
    body: bytes
    text: bool
    key: str | None = None

    def placed(self, *, epoch: str, position: int, previous: int, published_at: float) -> Record:
        """Return it with its place in the log."""
        return Record(
            topic=self.topic,
            event=self.event,
            body=self.body,
            text=self.text,
            epoch=epoch,
            position=position,
            previous=previous,
            published_at=published_at,
        )


@dataclass(slots=True, kw_only=True)
class Record:
    """An event in the log ``epoch``.

    ``position`` counts over the whole bus; ``previous`` is the position of the topic's event
    before this one (0: none, or long forgotten), so that a reader sees a hole; ``published_at`` is
    in seconds since the Unix epoch.
    """

    topic: str
    event: str | None
    body: bytes
    text: bool
    epoch: str
    position: int
    previous: int
    published_at: float

    @property
    def size(self) -> int:
        """Bytes of data."""
        return len(self.body)

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.epoch, self.position)

    def to_event(self) -> Event:
        """Return it as users see it."""
        text = self.body.decode()
        return Event(
            topic=self.topic,
            data=text if self.text else json.loads(text),
            event=self.event,
            id=str(self.cursor),
            published_at=datetime.fromtimestamp(self.published_at, timezone.utc),
        )


def body_of(kept: bytes) -> bytes:
    """Return a body that another program may have written, as UTF-8: every frame is made of it.

    What is not shows as U+FFFD, which is how a client would read it.
    """
    if kept.isascii():
        return kept
    try:
        kept.decode()
    except UnicodeDecodeError:
        return kept.decode("utf-8", "replace").encode()
    return kept


def name_of(kept: bytes) -> str | None:
    """Return the name of an event that another program may have named, if a stream can carry it."""
    name = kept.decode("utf-8", "replace")
    return None if _UNNAMEABLE.search(name) else name


def to_events(records: Sequence[Record]) -> list[Event]:
    """Return records as users see them, decoded in one step, which for many costs much less."""
    coded = b",".join([record.body for record in records if not record.text])
    values = iter(json.loads(b"[%b]" % coded))
    times = {record.published_at for record in records}
    dates = {at: datetime.fromtimestamp(at, timezone.utc) for at in times}
    return [
        Event(
            topic=record.topic,
            data=record.body.decode() if record.text else next(values),
            event=record.event,
            id=str(record.cursor),
            published_at=dates[record.published_at],
        )
        for record in records
    ]


def draft(
    topic: str, data: Any, event: str | None, *, max_size: int, key: str | None = None
) -> Draft:
    """Encode ``data`` once, for every stream that will carry it.

    Raises:
        InvalidEvent: the name, the key or the data cannot be carried.
        EventTooLarge: the encoded data is over ``max_size`` bytes.
    """
    if event is not None:
        _check_name(event)
        event = str.__str__(event)  # members of a str enum print as something else
    if key is not None:
        key = _check_key(key)
    text = isinstance(data, str)
    body = _encode_text(topic, data) if text else _encode_data(topic, data)
    if len(body) > max_size:
        raise EventTooLarge(
            f"data for topic {topic!r} is {len(body)} bytes encoded; MAX_EVENT_SIZE is {max_size}. "
            "Publish an id and let the client fetch the rest, or raise MAX_EVENT_SIZE."
        )
    return Draft(topic=str.__str__(topic), event=event, body=body, text=text, key=key)


def _check_name(event: str) -> None:
    if not isinstance(event, str):
        raise InvalidEvent(f"event: expected a str or None, not {type(event).__name__}.")
    if not event or len(event) > 255:
        raise InvalidEvent(
            f"event: a name has 1 to 255 characters, not {len(event)}. "
            "Leave it out for an unnamed event."
        )
    if any(c in event for c in "\r\n\0"):
        raise InvalidEvent(f"event: {event!r} holds CR, LF or NUL, which would break the stream.")
    if event.startswith(RESERVED):
        raise InvalidEvent(
            f"event: {event!r}: names that begin with {RESERVED!r} are the stream's own. "
            "Pick another."
        )
    if event in _HANDLERS:
        raise InvalidEvent(
            f"event: {event!r} would call on{event} of an EventSource, as if its connection had "
            "changed. Pick another name."
        )
    try:
        event.encode()
    except UnicodeEncodeError:
        raise InvalidEvent(f"event: {event!r} holds a lone surrogate: it is not text.") from None


def _check_key(key: str) -> str:
    if not isinstance(key, str):
        raise InvalidEvent(f"idempotency_key: expected a str or None, not {type(key).__name__}.")
    if not key or len(key) > 255:
        raise InvalidEvent(f"idempotency_key: it has 1 to 255 characters, not {len(key)}.")
    if not key.isprintable():  # nor can it be encoded with a lone surrogate
        raise InvalidEvent(f"idempotency_key: {key!r} holds characters that cannot be printed.")
    return str.__str__(key)


def _encode_text(topic: str, data: str) -> bytes:
    try:
        return data.encode()
    except UnicodeEncodeError as error:
        raise InvalidEvent(
            f"data for topic {topic!r}: a lone surrogate at index {error.start} cannot be sent as "
            "text. Publish a list or dict (JSON escapes it), or clean the text."
        ) from None


def _encode_data(topic: str, data: Any) -> bytes:
    try:
        encoded = _encode_json(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(
            f"data for topic {topic!r}: {error}. Publish what DjangoJSONEncoder can carry: dict, "
            "list, str, int, finite float, bool, None, date, time, timedelta, Decimal, UUID."
        ) from error
    try:
        return encoded.encode()
    except UnicodeEncodeError:  # a lone surrogate inside: it can be sent only escaped
        return _encode_ascii(data).encode()
