"""What a generator view may yield, and the frame that each becomes.

The yield styles are those of django-flosse 0.2, so that its users change an import and no more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.utils.functional import Promise

from .events import Event
from .exceptions import SSEYieldError
from .message import Mark
from .wire import RETRY_DIGITS, encode

#: Names of an SSEEvent's fields, as keys of a dict that has "data".
_FIELDS = ("data", "event", "id", "retry")
#: Each would end its line, or has the browser ignore the id (WHATWG HTML 9.2.6).
_FORBIDDEN = {"\r": "CR", "\n": "LF", "\0": "NUL"}


@dataclass(slots=True)
class SSEEvent:
    """One event of a generator stream.

    ``data``: text goes out as it is (``str``, or bytes of UTF-8), everything else as JSON.
    ``event`` is its name, ``id`` what the browser sends back as Last-Event-ID, ``retry`` the time
    in milliseconds after which it reconnects; each may be left out.
    """

    data: Any
    event: str | None = None
    id: str | None = None
    retry: int | None = None

    def encode(self) -> str:
        """Return the event in the text/event-stream format.

        Raises:
            SSEYieldError: a field cannot be sent.
        """
        return frame(self).decode()


def to_sse(raw: Any) -> str:
    """Return what a view has yielded in the text/event-stream format.

    ``str`` or bytes of UTF-8: data. ``(event, data)`` and ``(event, data, id)``. A dict with
    ``"data"``: the fields of an :class:`SSEEvent`, other keys left out. Another dict: data, as
    JSON. :class:`SSEEvent`, and the :class:`Event` of a bus. Anything else: ``str`` of it is data.

    Raises:
        SSEYieldError: (a ``ValueError``) it cannot be sent; the text names the field.
    """
    return frame(raw).decode()


def frame(raw: Any) -> bytes:
    """Like :func:`to_sse`, as it goes over the wire."""
    if isinstance(raw, SSEEvent):
        return _frame(raw.data, raw.event, raw.id, raw.retry)
    if isinstance(raw, str):
        return _frame(raw)
    if isinstance(raw, Event):
        return _frame(raw.data, raw.event, raw.id)
    if isinstance(raw, Mark):
        return raw.frame(envelope=False)
    if isinstance(raw, tuple):
        if len(raw) not in (2, 3):
            raise SSEYieldError(
                f"Tuple yields must be (event, data) or (event, data, id), got {len(raw)}-tuple."
            )
        event, data, *ids = raw
        return _frame(data, event, *ids)
    if isinstance(raw, dict):
        if "data" in raw:
            return frame(SSEEvent(**{key: raw[key] for key in _FIELDS if key in raw}))
        return _frame(raw)
    if isinstance(raw, (bytes, bytearray, memoryview)):
        return _frame(raw)
    return _frame(_text("data", raw))


def _frame(data: Any, event: object = None, id: object = None, retry: object = None) -> bytes:
    return encode(
        _encode_data(data),
        event=None if event is None else _line("event", event),
        id=None if id is None else _line("id", id),
        retry=None if retry is None else _milliseconds(retry),
    )


def _text(field: str, value: object) -> str:
    if isinstance(value, str):
        return str.__str__(value)  # members of a str enum print as something else
    try:
        return str(value)
    except Exception as error:  # the value's own code runs
        raise SSEYieldError(
            f"{field}: str() of this {type(value).__name__} raises {type(error).__name__}."
        ) from error


def _line(field: str, value: object) -> str:
    text = _text(field, value)
    for character, name in _FORBIDDEN.items():
        if character in text:
            raise SSEYieldError(f"{field}: {text[:80]!r} holds {name}, which cannot be sent in it.")
    _encode_text(field, text)
    return text


def _milliseconds(value: object) -> int:
    text = _text("retry", value)
    digits = text.isascii() and text.isdigit() and len(text) <= RETRY_DIGITS
    if isinstance(value, bool) or not digits:
        raise SSEYieldError(f"retry: expected a number of milliseconds, not {text[:80]!r}.")
    return int(text)


def _encode_data(data: Any) -> bytes:
    if isinstance(data, (str, Promise)):
        return _encode_text("data", _text("data", data))
    if isinstance(data, (bytes, bytearray, memoryview)):
        try:
            encoded = bytes(data)
            encoded.decode()
        except ValueError as error:  # also that of a memoryview that has been released
            raise SSEYieldError(
                f"data: bytes must be UTF-8 text: {error}. Send others as base64."
            ) from None
        return encoded
    try:
        return _encode_json(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate inside: it can be sent only escaped
        return _encode_json(data, ensure_ascii=True).encode()


def _encode_json(data: Any, *, ensure_ascii: bool) -> str:
    try:
        # NaN is no JSON: JSON.parse in the browser would throw on it.
        return json.dumps(data, cls=DjangoJSONEncoder, ensure_ascii=ensure_ascii, allow_nan=False)
    except Exception as error:  # lazy strings inside run code of their own
        ours = isinstance(error, (TypeError, ValueError, RecursionError))
        raise SSEYieldError(
            f"data: {error if ours else type(error).__name__}. "
            "It is sent as JSON, by DjangoJSONEncoder."
        ) from error


def _encode_text(field: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise SSEYieldError(
            f"{field}: a lone surrogate at index {error.start} cannot be sent as text."
        ) from None
