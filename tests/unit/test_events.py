from __future__ import annotations

import datetime
import decimal
import enum
import uuid

import pytest

from flosse_bus.events import Record, body_of, draft, name_of
from flosse_bus.exceptions import EventTooLarge, InvalidEvent


def encode(data, event=None, max_size=1000):
    return draft("t", data, event, max_size=max_size)


@pytest.mark.parametrize(
    ("data", "body", "text"),
    [
        ("plain", b"plain", True),
        ("", b"", True),
        ('{"a": 1}', b'{"a": 1}', True),
        ("ü\r\n", "ü\r\n".encode(), True),
        ({"a": 1}, b'{"a":1}', False),
        (["ü"], '["ü"]'.encode(), False),
        (None, b"null", False),
        (0, b"0", False),
        (decimal.Decimal("1.50"), b'"1.50"', False),
        (datetime.date(2026, 1, 2), b'"2026-01-02"', False),
        (uuid.UUID(int=5), b'"00000000-0000-0000-0000-000000000005"', False),
        (["\ud800"], b'["\\ud800"]', False),
    ],
)
def test_encoding(data, body, text):
    item = encode(data)
    assert (item.body, item.text) == (body, text)


@pytest.mark.parametrize(
    "data",
    [object(), {1: object()}, {"a": float("nan")}, [float("inf")], {("a",): 1}, b"bytes", {1, 2}],
)
def test_data_that_json_cannot_carry(data):
    with pytest.raises(InvalidEvent, match="data for topic 't'.*DjangoJSONEncoder"):
        encode(data)


def test_data_that_holds_itself():
    data = []
    data.append(data)
    with pytest.raises(InvalidEvent, match="data for topic 't'"):
        encode(data)


def test_text_with_a_lone_surrogate():
    with pytest.raises(InvalidEvent, match="lone surrogate at index 2"):
        encode("ab\ud800")


@pytest.mark.parametrize(
    "event",
    [
        "",
        "a\nb",
        "a\rb",
        "a\0b",
        "stream-reset",
        "stream-error",
        "stream-x",
        "stream-",
        "open",
        "error",
        "x" * 256,
        5,
        "\udfff",
    ],
)
def test_bad_event_names(event):
    with pytest.raises(InvalidEvent, match="^event: "):
        encode(1, event)


@pytest.mark.parametrize("event", ["a", "shop.order.created", "wörd", "x" * 255, " a"])
def test_good_event_names(event):
    assert encode(1, event).event == event


@pytest.mark.parametrize(("data", "size"), [("x" * 10, 10), ("ü" * 5, 10), ([1, 2, 3, 40], 10)])
def test_size_is_counted_in_encoded_bytes(data, size):
    assert len(encode(data, max_size=size).body) == size
    with pytest.raises(
        EventTooLarge, match=f"is {size} bytes encoded; MAX_EVENT_SIZE is {size - 1}"
    ):
        encode(data, max_size=size - 1)


def test_a_record_is_read_back_as_an_event():
    record = Record(
        topic="t", event="e", body=b'{"a":[1]}', text=False,
        epoch="abc", position=7, previous=0, published_at=86400.5,
    )  # fmt: skip
    event = record.to_event()
    assert (event.topic, event.event, event.data, event.id) == ("t", "e", {"a": [1]}, "abc-7")
    assert event.published_at == datetime.datetime(
        1970, 1, 2, 0, 0, 0, 500_000, tzinfo=datetime.timezone.utc
    )


def test_members_of_a_str_enum_are_their_values():
    class Word(str, enum.Enum):
        SAVED = "saved"

    one = draft(Word.SAVED, Word.SAVED, Word.SAVED, max_size=100)
    assert (type(one.topic), type(one.event), one.body) == (str, str, b"saved")
    assert f"{one.topic} {one.event}" == "saved saved"


@pytest.mark.parametrize(
    ("kept", "read"),
    [
        (b"plain", b"plain"),
        ("gr\u00fcn".encode(), "gr\u00fcn".encode()),
        (b"a\xffb", b"a\xef\xbf\xbdb"),
    ],
)
def test_a_body_of_another_program_is_utf_8_when_it_is_read(kept, read):
    assert body_of(kept) == read


@pytest.mark.parametrize(
    ("kept", "name"),
    [
        (b"shop.order.updated", "shop.order.updated"), (b"n\xff", "n\ufffd"), (b"a\rid: 9", None),
        (b"a\nb", None), (b"stream-reset", None), (b"a\0", None), (b"", None),
    ],
)  # fmt: skip
def test_a_name_of_another_program_cannot_break_a_stream(kept, name):
    assert name_of(kept) == name
