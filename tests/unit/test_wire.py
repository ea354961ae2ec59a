from __future__ import annotations

import json
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flosse_bus.events import Record
from flosse_bus.wire import Decoder, encode, encode_envelope, encode_retry


def decode(*chunks):
    decoder = Decoder()
    return [
        (block.event, block.data, block.id) for chunk in chunks for block in decoder.feed(chunk)
    ]


# (bytes on the wire, dispatched or id-only blocks). The first four are the standard's examples.
STREAMS = [
    (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10", "")]),
    (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
        [("message", "first event", "1"), ("message", "second event", "")],
    ),
    (b"data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "\n", "")]),
    (b"data:test\n\ndata: test\n\n", [("message", "test", ""), ("message", "test", "")]),
    (b"event: add\ndata: 1\n\ndata: 2\n\n", [("add", "1", ""), ("message", "2", "")]),
    (b"id: 5\n\ndata: x\n\n", [("message", None, "5"), ("message", "x", "5")]),
    (b"id: 5\0\ndata: x\n\n", [("message", "x", "")]),
    (b"\xef\xbb\xbfdata: x\n\n", [("message", "x", "")]),
    (b"data: \xef\xbb\xbfx\n\n", [("message", "\ufeffx", "")]),
    (b"data: a\rdata: b\r\ndata: c\n\r\n", [("message", "a\nb\nc", "")]),
    ("data: a\u2028b\u0085c\x0bd\n\n".encode(), [("message", "a\u2028b\u0085c\x0bd", "")]),
    (b"retry: 10\nretry: 1x\nunknown: 5\n: comment\n\n", [("message", None, "")]),
    (b"\n\n\n: nothing\n\n", []),
    (b"data: a\r\n\ndata: b\r\r\ndata: c\n\r\n", [("message", c, "") for c in "abc"]),
    (b"data: \xff\n\n", [("message", "\ufffd", "")]),
]


@pytest.mark.parametrize(("stream", "blocks"), STREAMS)
def test_decoding(stream, blocks):
    assert decode(stream) == blocks


@pytest.mark.parametrize(("stream", "blocks"), STREAMS)
def test_decoding_in_pieces(stream, blocks):
    assert decode(*[stream[i : i + 1] for i in range(len(stream))]) == blocks


@pytest.mark.parametrize(
    ("value", "retry"),
    [("10", 10), ("+5", None), ("-1", None), ("٣", None), ("", None), ("9" * 5000, None)],
    ids=count(),
)
def test_retry_is_ascii_digits_only(value, retry):
    [block] = Decoder().feed(f"retry: {value}\ndata: x\n\n".encode())
    assert block.retry == retry


@pytest.mark.parametrize(
    ("data", "options", "wire"),
    [
        (b"x", {}, b"data: x\n\n"),
        (b"", {}, b"data: \n\n"),
        (b"a\nb", {}, b"data: a\ndata: b\n\n"),
        (b"a\r\nb\rc\n", {}, b"data: a\ndata: b\ndata: c\ndata: \n\n"),
        (b"x", {"event": "e", "id": "i"}, b"id: i\nevent: e\ndata: x\n\n"),
    ],
)
def test_encoding(data, options, wire):
    assert encode(data, **options) == wire


def test_blocks_that_dispatch_nothing():
    assert encode_retry(3000) == b"retry: 3000\n"


@given(st.text(), st.integers(1, 7))
def test_whatever_text_goes_in_comes_out_with_lf_for_line_ends(text, step):
    wire = encode(text.encode("utf-8", "replace"), id="x-1")
    chunks = [wire[i : i + step] for i in range(0, len(wire), step)]
    expected = text.encode("utf-8", "replace").decode()
    expected = expected.replace("\r\n", "\n").replace("\r", "\n")
    assert decode(*chunks) == [("message", expected, "x-1")]


@pytest.mark.parametrize(
    ("body", "text", "event", "data"),
    [
        (b'{"a":1}', False, "shop.order", {"a": 1}),
        ('ü\nb"'.encode(), True, None, 'ü\nb"'),
    ],
)
def test_the_envelope_says_where_an_event_came_from(body, text, event, data):
    record = Record(
        topic="t.1", event=event, body=body, text=text,
        epoch="e", position=3, previous=0, published_at=0.0,
    )  # fmt: skip
    [(name, decoded, id)] = decode(encode_envelope(record, "e-3"))
    assert (name, id) == ("message", "e-3")
    assert json.loads(decoded) == {"topic": "t.1", "event": event, "data": data, "id": "e-3"}
