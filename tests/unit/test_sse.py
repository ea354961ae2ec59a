"""What a generator view may yield, and the frame of each, byte for byte."""

from __future__ import annotations

import array
import datetime
import decimal
import enum
import uuid
from collections import OrderedDict
from itertools import count
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy, override

from flosse_bus import Event, SSEEvent, to_sse
from flosse_bus.exceptions import FlosseBusError, SSEYieldError
from flosse_bus.message import Mark
from flosse_bus.sse import frame


class Pair(NamedTuple):
    event: str
    data: list


class Triple(NamedTuple):
    name: str
    value: str
    number: int


Color = enum.Enum("Color", {"RED": "red"}, type=str)
EVENT = Event(
    topic="orders", data={"a": [1, "ü"]}, event="placed", id="e-5",
    published_at=datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
)  # fmt: skip


class Loud:
    def __str__(self):
        return "one\ntwo"


@pytest.mark.parametrize(
    ("raw", "wire"),
    [
        # Text, as it is. Only CR, LF and CRLF end a line.
        ("hello", "data: hello\n\n"),
        ("", "data: \n\n"),
        (" x ", "data:  x \n\n"),
        (": x", "data: : x\n\n"),
        ("a\nb", "data: a\ndata: b\n\n"),
        ("a\r\nb\rc\n", "data: a\ndata: b\ndata: c\ndata: \n\n"),
        ("\n", "data: \ndata: \n\n"),
        ("\n\r", "data: \ndata: \ndata: \n\n"),
        (
            "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\0h",
            "data: a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\0h\n\n",
        ),
        ("\ufeffÜ😀", "data: \ufeffÜ😀\n\n"),
        ('{"a": 1}', 'data: {"a": 1}\n\n'),
        (mark_safe("<b>"), "data: <b>\n\n"),
        (Color.RED, "data: red\n\n"),
        (lazystr("lazy"), "data: lazy\n\n"),
        ("Grüße".encode(), "data: Grüße\n\n"),
        (b"", "data: \n\n"),
        (bytearray(b"a\r\nb"), "data: a\ndata: b\n\n"),
        (memoryview(b"-xyz-")[1:4], "data: xyz\n\n"),
        (memoryview(b"x.y.z")[::2], "data: xyz\n\n"),
        (memoryview(array.array("I", [0x64636261])), "data: abcd\n\n"),
        # Tuples: data that is not text goes as JSON, event and id by str().
        (("tick", "x"), "event: tick\ndata: x\n\n"),
        (("tick", b"x"), "event: tick\ndata: x\n\n"),
        (("tick", {"a": 1, "b": [None]}), 'event: tick\ndata: {"a": 1, "b": [null]}\n\n'),
        (("tick", 5), "event: tick\ndata: 5\n\n"),
        (("tick", None), "event: tick\ndata: null\n\n"),
        (("tick", True), "event: tick\ndata: true\n\n"),
        (("tick", ""), "event: tick\ndata: \n\n"),
        (("tick", "x", 7), "id: 7\nevent: tick\ndata: x\n\n"),
        (("tick", "x", "abc"), "id: abc\nevent: tick\ndata: x\n\n"),
        (("tick", "x", None), "event: tick\ndata: x\n\n"),
        ((None, "x"), "data: x\n\n"),
        ((None, "x", 0), "id: 0\ndata: x\n\n"),
        (("", "x", ""), "id: \nevent: \ndata: x\n\n"),
        ((Color.RED, Color.RED, Color.RED), "id: red\nevent: red\ndata: red\n\n"),
        ((lazystr("tick"), lazystr("x"), lazystr("7")), "id: 7\nevent: tick\ndata: x\n\n"),
        ((5, "x", uuid.UUID(int=1)), f"id: {uuid.UUID(int=1)}\nevent: 5\ndata: x\n\n"),
        (("a: b\u2028", "x", "ü 1"), "id: ü 1\nevent: a: b\u2028\ndata: x\n\n"),
        (Pair("tick", [1]), "event: tick\ndata: [1]\n\n"),
        (Triple("tick", "x", 7), "id: 7\nevent: tick\ndata: x\n\n"),
        # A dict with "data" has the fields of an event; another one is data.
        ({"data": "x"}, "data: x\n\n"),
        ({"data": {"data": 1}}, 'data: {"data": 1}\n\n'),
        ({"data": None}, "data: null\n\n"),
        (
            {"data": "x", "event": "e", "id": 5, "retry": 9},
            "retry: 9\nid: 5\nevent: e\ndata: x\n\n",
        ),
        ({"data": "x", "event": None, "id": None, "retry": None}, "data: x\n\n"),
        ({"data": "x", "other": object(), 5: 6}, "data: x\n\n"),
        (OrderedDict(data="x", id="1"), "id: 1\ndata: x\n\n"),
        ({"event": "e", "id": 5}, 'data: {"event": "e", "id": 5}\n\n'),
        ({}, "data: {}\n\n"),
        ({"a": "Ü\n\u2028"}, 'data: {"a": "Ü\\n\u2028"}\n\n'),
        ({"a": "\ud800", "b": "Ü"}, 'data: {"a": "\\ud800", "b": "\\u00dc"}\n\n'),
        ({"\udfff": 1}, 'data: {"\\udfff": 1}\n\n'),
        ({"a": decimal.Decimal("1.50")}, 'data: {"a": "1.50"}\n\n'),
        ({"a": datetime.date(2026, 1, 2)}, 'data: {"a": "2026-01-02"}\n\n'),
        ({"a": lazystr("lazy")}, 'data: {"a": "lazy"}\n\n'),
        # Events.
        (SSEEvent("x"), "data: x\n\n"),
        (SSEEvent("a\nb", "e", "5", 1000), "retry: 1000\nid: 5\nevent: e\ndata: a\ndata: b\n\n"),
        (SSEEvent({"a": 1}, id="5"), 'id: 5\ndata: {"a": 1}\n\n'),
        (SSEEvent(data="", event="", id="", retry=0), "retry: 0\nid: \nevent: \ndata: \n\n"),
        (SSEEvent("x", retry="0250"), "retry: 250\ndata: x\n\n"),
        (EVENT, 'id: e-5\nevent: placed\ndata: {"a": [1, "ü"]}\n\n'),
        (Mark(id="e-5"), "id: e-5\nevent: stream-ping\ndata: {}\n\n"),
        # Anything else, by str().
        (5, "data: 5\n\n"),
        (1.5, "data: 1.5\n\n"),
        (float("nan"), "data: nan\n\n"),
        (None, "data: None\n\n"),
        (True, "data: True\n\n"),
        ([1, "a"], "data: [1, 'a']\n\n"),
        (["\ud800"], "data: ['\\ud800']\n\n"),
        (decimal.Decimal("1.50"), "data: 1.50\n\n"),
        (Loud(), "data: one\ndata: two\n\n"),
    ],
    ids=count(),
)
def test_frames(raw, wire):
    assert to_sse(raw) == wire
    assert frame(raw) == wire.encode()


def test_a_translation_is_made_when_it_is_sent():
    yes = gettext_lazy("Yes")
    with override("de"):
        assert to_sse(yes) == "data: Ja\n\n"
        assert to_sse((yes, yes, yes)) == "id: Ja\nevent: Ja\ndata: Ja\n\n"


def test_an_event_of_django_flosse_0_2():
    """Its fields by position, it can be changed, and ``encode`` is its frame."""
    event = SSEEvent("x", "e", "i", 5)
    assert (event.data, event.event, event.id, event.retry) == ("x", "e", "i", 5)
    event.data, event.id = [1, 2], None
    assert event == SSEEvent([1, 2], event="e", retry=5)
    assert event.encode() == to_sse(event) == "retry: 5\nevent: e\ndata: [1, 2]\n\n"


class Broken:
    """Its own code fails when it is to become text."""

    def __str__(self):
        raise LookupError("secret")


def released():
    view = memoryview(b"x")
    view.release()
    return view


def circular():
    found = []
    found.append(found)
    return found


def deep(levels=100_000):
    found = []
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize("wrap", [
    lambda **fields: SSEEvent(**{"data": "x", **fields}),
    lambda **fields: {"data": "x", **fields},
], ids=["event", "dict"])  # fmt: skip
@pytest.mark.parametrize("field", ["event", "id"])
@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("a\rb", "CR"),
        ("a\nb", "LF"),
        ("a\0b", "NUL"),
        ("\n", "LF"),
        ("x" * 1000 + "\n", "LF"),
        (lazystr("a\nb"), "LF"),
        (Loud(), "LF"),
        ("a\ud800", "lone surrogate at index 1"),
        (Broken(), "Broken raises LookupError"),
        (10**5000, "int raises ValueError"),
    ],
    ids=count(),
)
def test_names_and_ids_that_would_break_the_stream(wrap, field, value, says):
    with pytest.raises(SSEYieldError, match=says) as caught:
        frame(wrap(**{field: value}))
    assert str(caught.value).startswith(f"{field}: ")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (("a\nb", "x"), "event: .*LF"),
        (("a", "x", "\0"), "id: .*NUL"),
        ((), "or .event, data, id., got 0-tuple"),
        (("x",), r"Tuple yields must be .* got 1-tuple"),
        (("x", "x", "x", "x"), "got 4-tuple"),
        ("\ud800", "data: a lone surrogate at index 0"),
        ("ok\udc80", "data: a lone surrogate at index 2"),
        (("e", "\ud800"), "data: a lone surrogate"),
        (lazystr("\ud800"), "data: a lone surrogate"),
        (b"\xff", "data: bytes must be UTF-8"),
        (b"\xed\xa0\x80", "data: bytes must be UTF-8"),
        (bytearray(b"ok\xc3"), "data: bytes must be UTF-8"),
        (memoryview(b"\x80"), "data: bytes must be UTF-8"),
        (released(), "data: .*released memoryview"),
        (("e", float("nan")), "data: .*JSON"),
        ({"a": [float("inf")]}, "data: .*JSON"),
        (("e", object()), "data: .*object is not JSON serializable"),
        (("e", {1, 2}), "data: .*set is not JSON serializable"),
        ({(1, 2): 3}, "data: keys must be"),
        ({"a": b"bytes"}, "data: .*bytes is not JSON serializable"),
        (("e", circular()), "data: "),
        (("e", deep()), "data: "),
        (("e", 10**5000), "data: .*JSON"),
        ({"a": lazystr(Broken())}, "data: .*JSON"),
        (10**5000, "data: str.. of this int raises ValueError"),
        (Broken(), "data: str.. of this Broken raises LookupError"),
        (lazystr(Broken()), "data: .* raises LookupError"),
    ],
    ids=count(),
)
def test_what_cannot_be_sent(raw, says):
    with pytest.raises(SSEYieldError, match=says) as caught:
        to_sse(raw)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, FlosseBusError)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "retry",
    [-1, 1.0, 1.5, "", "1s", "+5", " 5", "5\n", "٣", "²", True, False, [], float("nan"), 10**18,
     10**5000, Broken(), "9" * 5000],
    ids=count(),
)  # fmt: skip
def test_a_retry_that_is_no_number_of_milliseconds(retry):
    with pytest.raises(SSEYieldError, match=r"\Aretry: ") as caught:
        to_sse({"data": "x", "retry": retry})
    assert len(str(caught.value)) < 200


def test_an_object_that_only_looks_like_an_event_is_not_one():
    with pytest.raises(SSEYieldError, match="data: .*SimpleNamespace"):
        to_sse(("e", SimpleNamespace(data="x")))
