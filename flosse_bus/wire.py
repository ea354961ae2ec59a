"""The text/event-stream format of WHATWG HTML, section 9.2, and nothing else.

Bytes out, values in, no I/O. Only CR, LF and CRLF end a line; U+2028 and friends are plain text.
"""

from __future__ import annotations

import codecs
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .events import Record

_LINE_END = re.compile(r"\r\n|\n|\r")

CONTENT_TYPE = "text/event-stream; charset=utf-8"
#: Nothing between here and the client may keep, join, or recode what is sent.
HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
    # Keeps GZipMiddleware off, which would hold events back in its buffer. BusMiddleware takes
    # it out again, as RFC 9110 (8.4.1) wants.
    "Content-Encoding": "identity",
}
#: Of a reconnection time. Browsers ignore what 64 bits do not hold.
RETRY_DIGITS = 18

#: A comment: it keeps proxies from closing a silent connection, and clients ignore it.
COMMENT = b": heartbeat\n\n"


def encode(
    data: bytes, *, event: str | None = None, id: str | None = None, retry: int | None = None
) -> bytes:
    """Return one event's block. ``data`` is UTF-8 and may hold any line breaks."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\n" in data:
        data = data.replace(b"\n", b"\ndata: ")
    head = "" if retry is None else f"retry: {retry}\n"
    if id is not None:
        head += f"id: {id}\n"
    if event is not None:
        head += f"event: {event}\n"
    return b"%sdata: %s\n\n" % (head.encode(), data)


def encode_retry(milliseconds: int) -> bytes:
    """Return the line that sets the client's reconnection time, to stand before a block's others.

    Alone in a block some clients would take it for an empty message.
    """
    return f"retry: {milliseconds}\n".encode()


def jittered(milliseconds: int) -> int:
    """Return a reconnection time within 25 % of this, so that cut streams do not return as one."""
    return round(milliseconds * random.uniform(0.75, 1.25))


def encode_record(record: Record, id: str) -> bytes:
    """Return the block of a record of the log."""
    return encode(record.body, event=record.event, id=id)


def encode_envelope(record: Record, id: str) -> bytes:
    """Return a record as an unnamed message that says where it came from (``?envelope=1``)."""
    body = json.dumps(record.body.decode(), ensure_ascii=False) if record.text else None
    return encode(
        b'{"topic":%s,"event":%s,"data":%s,"id":%s}'
        % (
            json.dumps(record.topic).encode(),
            json.dumps(record.event, ensure_ascii=False).encode(),
            record.body if body is None else body.encode(),
            json.dumps(id).encode(),
        ),
        id=id,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block as an ``EventSource`` sees it.

    ``data`` is ``None`` for a block that dispatches nothing; ``id`` is the last event id after
    it; ``retry`` is set when the block carried a valid one.
    """

    event: str
    data: str | None
    id: str
    retry: int | None


class Decoder:
    """Incremental parser: feed bytes as they come, get the blocks that they complete."""

    def __init__(self) -> None:
        self._text = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._line: list[str] = []
        self._after_cr = False
        self._event = ""
        self._data: list[str] = []
        self._id = ""
        self._retry: int | None = None
        self._seen = False

    def feed(self, chunk: bytes) -> Iterator[Block]:
        for line in self._lines(self._text.decode(chunk)):
            if line:
                self._field(line)
            elif self._seen:
                yield self._end_block()

    def _lines(self, text: str) -> Iterator[str]:
        if text and self._after_cr:
            text = text.removeprefix("\n")
            self._after_cr = False
        if text:
            self._after_cr = text.endswith("\r")
        *lines, rest = _LINE_END.split(text)
        for line in lines:
            yield "".join((*self._line, line))
            self._line.clear()
        if rest:
            self._line.append(rest)

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit() and len(value) <= RETRY_DIGITS:
            self._retry = int(value)
        else:
            return
        self._seen = True

    def _end_block(self) -> Block:
        block = Block(
            event=self._event or "message",
            data="\n".join(self._data) if self._data else None,
            id=self._id,
            retry=self._retry,
        )
        self._event, self._data, self._retry, self._seen = "", [], None, False
        return block
