"""What a subscription hands to its reader: things that have a frame."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone

from .cursor import EARLIEST, Cursor
from .events import OPEN, PING, RESET, Event, Record
from .wire import encode, encode_envelope, encode_record


class Message:
    """A record on its way out. Its frames are encoded once in a process, when first needed."""

    __slots__ = ("_envelope", "_frame", "record", "size")

    def __init__(self, record: Record) -> None:
        self.record = record
        #: Bytes of data.
        self.size = len(record.body)
        self._frame: bytes | None = None
        self._envelope: bytes | None = None

    @property
    def position(self) -> int:
        return self.record.position

    @property
    def published_at(self) -> float:
        return self.record.published_at

    def frame(self, *, envelope: bool) -> bytes:
        if envelope:
            if self._envelope is None:
                self._envelope = encode_envelope(self.record, str(self.record.cursor))
            return self._envelope
        if self._frame is None:
            self._frame = encode_record(self.record, str(self.record.cursor))
        return self._frame

    def to_event(self) -> Event:
        return self.record.to_event()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Events of ``topics`` are lost to this stream: refetch, and go on from ``id``.

    ``reason`` is "expired" (older than what is kept), "unknown" (not a cursor of this log) or
    "overflow" (the stream was slower than the ring). ``at`` is in seconds, Unix epoch.
    """

    topics: tuple[str, ...]
    reason: str
    id: str
    at: float
    size: int = 0

    @property
    def _data(self) -> dict[str, object]:
        return {"topics": list(self.topics), "reason": self.reason}

    def frame(self, *, envelope: bool) -> bytes:
        return encode(json.dumps(self._data).encode(), event=RESET, id=self.id)

    def to_event(self) -> Event:
        return Event(
            topic="",
            data=self._data,
            event=RESET,
            id=self.id,
            published_at=datetime.fromtimestamp(self.at, timezone.utc),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The first block of a stream: when to come back, and where to resume until an event comes.

    ``id`` is ``None`` where the client named a position that is no cursor. ``resumed``: the stream
    goes on at the client's position with nothing missing. ``retry`` is in milliseconds.
    """

    id: str | None
    resumed: bool
    retry: int

    def beyond(self, position: int) -> bool:
        """Would a client with this id resume after ``position``?"""
        return self.id is not None and _beyond(self.id, position)

    def frame(self, *, envelope: bool) -> bytes:
        data = json.dumps({"resumed": self.resumed}).encode()
        return encode(data, event=OPEN, id=self.id, retry=self.retry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place to resume from, after silence or after events that are not this stream's.

    Its block has data because most clients ignore the id of one without.
    ``position`` is where the reader stands after it; ``None`` leaves that open.
    """

    id: str
    position: int | None = None
    size: int = 0

    def beyond(self, position: int) -> bool:
        """Would a client with this id resume after ``position``?"""
        return _beyond(self.id, position)

    def frame(self, *, envelope: bool) -> bytes:
        return encode(b"{}", event=PING, id=self.id)


def _beyond(id: str, position: int) -> bool:
    return id != EARLIEST and Cursor.parse(id).position > position
