"""Whatever a view yields arrives as it was, or is refused: by two parsers, in any chunks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx
import pytest
from django.utils.functional import lazystr
from httpx_sse import EventSource
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flosse_bus import SSEEvent, to_sse
from flosse_bus.events import draft
from flosse_bus.exceptions import InvalidEvent, SSEYieldError
from flosse_bus.sse import frame
from flosse_bus.wire import Decoder, encode_envelope, encode_record
from tests import TORTURE

thoroughly = settings(max_examples=5_000 if TORTURE else 200)

#: What ends lines, what str.splitlines() believes does, what fields are made of, what is no text.
FINE = "\u2028\u2029\x85\x0b\x0c\x1c\x1e\ufeff\ufffd: daetirv0\t😀ü"
SURROGATES = "\ud800\udbff\udc00\udfff"
TEXT = (
    st.text(st.sampled_from(FINE + "\r\n\0"))
    | st.text(st.sampled_from(FINE + "\r\n\0" + SURROGATES))
    | st.text(st.characters(codec=None))
)
#: With at most one character that a name or id cannot have.
LINE = st.builds(
    "{}{}{}".format,
    st.text(st.sampled_from(FINE), max_size=3),
    st.just("") | st.sampled_from("\r\n\0" + SURROGATES),
    st.text(st.sampled_from(FINE), max_size=3),
)
#: What JSON can carry.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def is_text(value):
    return not any("\ud800" <= character <= "\udfff" for character in value)


def with_lf(text):
    """The format has no other line ends: CR and CRLF come back as LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True)
class Said:
    """Something to yield, and what is to arrive; ``None`` where it can only be refused."""

    raw: Any
    data: Any
    event: str | None = None
    id: str | None = None
    retry: int | None = None
    is_json: bool = False
    can_be_sent: bool = True

    def matches(self, got):
        event, data, _, retry = got
        if self.is_json:
            # json's own reading of it: a pair of lone surrogates is one character afterwards.
            same = json.loads(data) == json.loads(json.dumps(self.data))
        else:
            same = data == with_lf(self.data)
        return same and event == (self.event or "message") and retry == self.retry


class Speaks:
    def __init__(self, text):
        self.text = text

    def __str__(self):
        return self.text


@st.composite
def data(draw):
    """Return ``(raw, what arrives, is it JSON?, can it be sent?)``."""
    text = draw(TEXT)
    sendable = is_text(text)
    kind = draw(
        st.sampled_from(["str", "lazy", "bytes", "bytearray", "memoryview", "binary", "json"])
    )
    if kind == "json":
        value = draw(VALUES.filter(lambda value: not isinstance(value, str)))
        return value, value, True, True
    if kind == "str":
        return text, text, False, sendable
    if kind == "lazy":
        return lazystr(text), text, False, sendable
    if kind == "binary":
        raw = draw(st.binary(max_size=8))
        text = raw.decode(errors="replace")
        return raw, text, False, text.encode() == raw
    make = {"bytes": bytes, "bytearray": bytearray, "memoryview": memoryview}[kind]
    return make(text.encode(errors="surrogatepass")), text, False, sendable


@st.composite
def line(draw):
    """Return ``(raw, what arrives, can it be sent?)`` of an event name or id."""
    text = draw(st.none() | LINE | st.integers(-5, 5))
    if text is None:
        return None, None, True
    raw = draw(st.sampled_from([text, lazystr(text), Speaks(str(text))]))
    text = str(text)
    return raw, text, is_text(text) and not set(text) & set("\r\n\0")


@st.composite
def saying(draw):
    raw, value, is_json, sendable = draw(data())
    style = draw(st.sampled_from(["bare", "speaks", "pair", "triple", "event", "dict"]))
    if style == "speaks" and not is_json and isinstance(raw, str):
        return Said(Speaks(raw), value, can_be_sent=sendable)
    if style in ("bare", "speaks"):
        if not is_json or (isinstance(raw, dict) and "data" not in raw):
            return Said(raw, value, is_json=is_json, can_be_sent=sendable)
        style = "pair"  # other values have no bare form that carries JSON
    event, event_text, event_ok = draw(line())
    if style == "pair":
        return Said(
            (event, raw), value, event_text, is_json=is_json, can_be_sent=sendable and event_ok
        )
    id, id_text, id_ok = draw(line())
    retry, retry_ok = None, True
    if style != "triple":
        retry, retry_ok = draw(
            st.sampled_from([(None, True), (0, True), (2500, True), ("5", True), (-1, False)])
        )
    raw = {
        "triple": lambda: (event, raw, id),
        "event": lambda: SSEEvent(raw, event, id, retry),
        "dict": lambda: {"data": raw, "event": event, "id": id, "retry": retry, "more": object()},
    }[style]()
    return Said(
        raw, value, event_text, id_text, None if retry is None else int(retry), is_json,
        sendable and event_ok and id_ok and retry_ok,
    )  # fmt: skip


def ours(chunks):
    """Return what our decoder reads: ``(event, data, last event id, retry)``."""
    decoder = Decoder()
    return [
        (block.event, block.data, block.id, block.retry)
        for chunk in chunks
        for block in decoder.feed(chunk)
    ]


def theirs(chunks):
    """Return what httpx-sse reads.

    By the standard it is wrong in that it keeps a byte order mark at the stream's very start,
    dispatches blocks without data and takes ``retry: +5``. None of these is ever sent by a
    generator stream: each frame begins with a field's name, has data, and an unsigned retry.
    """
    headers = {"Content-Type": "text/event-stream; charset=utf-8"}
    response = httpx.Response(200, headers=headers, content=iter(chunks))
    return [(got.event, got.data, got.id, got.retry) for got in EventSource(response).iter_sse()]


def cut(wire, points):
    """Return a wire's bytes in chunks."""
    edges = [0, *sorted(point % (len(wire) + 1) for point in points), len(wire)]
    return [wire[start:end] for start, end in pairwise(edges)]


CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@pytest.mark.parametrize("read", [ours, theirs])
@thoroughly
@given(st.lists(saying(), min_size=1, max_size=4), CUTS)
@example([Said(text := "a\r\nb\rc\n\u2028\x85d\0\ufeff", text), Said("", "")], list(range(40)))
def test_what_is_yielded_arrives(read, sayings, points):
    wire = b""
    sent = []
    for said in sayings:
        if said.can_be_sent:
            wire += frame(said.raw)
            sent.append(said)
        else:
            with pytest.raises(SSEYieldError, match=r"\A(data|event|id|retry): "):
                frame(said.raw)
    got = read(cut(wire, points))
    assert len(got) == len(sent)
    last = ""
    for said, each in zip(sent, got, strict=True):
        last = last if said.id is None else said.id
        assert said.matches(each), (said, each)
        assert each[2] == last


@pytest.mark.parametrize("read", [ours, theirs])
@pytest.mark.parametrize(
    "text",
    ["x" * 2**20, "ü" * 2**19, "\u2028" * 350_000, "\n" * 20_000, "\r\n\r" * 10_000, '"\\' * 2**19],
    ids=["ascii", "umlauts", "separators", "LF", "CR", "quotes"],
)
@pytest.mark.parametrize("size", [1000, 32_768, 2**20])
def test_what_is_big_arrives(read, text, size):
    for raw in (text, text.encode(), ("big", text), SSEEvent([text], event="big", id="1")):
        said = Said(raw, [text], "big", "1", is_json=True) if isinstance(raw, SSEEvent) else (
            Said(raw, text, "big" if isinstance(raw, tuple) else None)
        )  # fmt: skip
        wire = frame(raw)
        [got] = read([wire[at : at + size] for at in range(0, len(wire), size)])
        assert said.matches(got)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | TEXT
    | st.binary() | st.datetimes() | st.times() | st.timedeltas() | st.decimals() | st.uuids()
    | st.builds(object) | st.builds(Speaks, TEXT | st.integers()) | st.builds(lazystr, TEXT),
    lambda inner: st.lists(inner, max_size=3)
    | st.lists(inner, max_size=5).map(tuple)
    | st.dictionaries(TEXT | st.sampled_from(["data", "event", "id", "retry"]), inner, max_size=4)
    | st.dictionaries(st.integers() | st.none() | st.binary() | st.floats(), inner, max_size=3)
    | st.builds(SSEEvent, inner, inner, inner, inner | st.integers()),
    max_leaves=8,
)  # fmt: skip


@thoroughly
@given(ANYTHING | st.builds(Speaks, st.integers()), CUTS)
def test_anything_at_all_is_one_event_or_an_error_of_ours(raw, points):
    try:
        wire = frame(raw)
    except SSEYieldError:
        with pytest.raises(SSEYieldError):
            to_sse(raw)
        return
    assert to_sse(raw).encode() == wire
    chunks = cut(wire, points)
    [got] = ours(chunks)
    assert got == ours([wire])[0]
    assert theirs(chunks) == [got]
    assert wire.endswith(b"\n\n")
    assert b"\n\n" not in wire[:-2]
    assert b"\r" not in wire


@pytest.mark.parametrize("read", [ours, theirs])
@thoroughly
@given(TEXT | VALUES, st.none() | LINE, CUTS)
def test_what_is_published_arrives(read, value, event, points):
    """On a bus, as itself and in the envelope."""
    try:
        item = draft("t.1", value, event, max_size=2**20)
    except InvalidEvent:
        bad_name = event is not None and (not event or set(event) & set("\r\n\0"))
        bad_text = not is_text(event or "") or (isinstance(value, str) and not is_text(value))
        assert bad_name or bad_text
        return
    record = item.placed(epoch="e", position=3, previous=0, published_at=0.0)
    wire = encode_record(record, "e-3") + encode_envelope(record, "e-3")
    plain, enveloped = read(cut(wire, points))
    assert Said(value, value, event, is_json=not isinstance(value, str)).matches(plain)
    envelope = json.loads(enveloped[1])
    # Inside JSON, line ends stay as they are.
    expected = {"topic": "t.1", "event": event, "data": value, "id": "e-3"}
    assert envelope == json.loads(json.dumps(expected))
    assert (enveloped[0], plain[2], enveloped[2]) == ("message", "e-3", "e-3")
