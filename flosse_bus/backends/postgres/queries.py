"""What is asked of the SQL functions of ``flosse_bus.contrib.postgres``, and what they answer."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import md5
from typing import TYPE_CHECKING, Any

from ...conf import BusConfig, History
from ...cursor import Cursor
from ...events import Draft, Record, body_of, name_of
from ...topics import is_pattern
from ..base import Snapshot, TopicHistory
from .keys import Held
from .link import Arguments, Query

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

#: What one look of a listener takes at most: events, and bytes of their data.
ROWS = 500
BYTES = 1 << 20
#: A place after every event.
END = (1 << 63) - 1

#: What is kept of a topic: events, seconds, bytes.
_BOUNDS = ("bigint", "double precision", "bigint")
#: The same by topic, seconds to keep keys, and whether a crash may lose what was last.
_KEEPING = ("jsonb", "double precision", "boolean")

_QUOTED = re.compile(r'["\\]')
_ARRAY = struct.Struct(">iiIii")
_LENGTH = struct.Struct(">i")
#: The type's number.
_BYTEA = 17
_INTEGER = struct.Struct(">q")
_FLOAT = struct.Struct(">d")


class Queries:
    """The queries on one bus, with the arguments that do not change."""

    def __init__(self, config: BusConfig, *, schema: str | None, relaxed: bool) -> None:
        at = f'"{schema}".' if schema else ""
        self._bus = config.key_prefix.encode()
        self.config = self._config = config
        self._history = json.dumps(
            [
                [_anchored(entry.pattern), *_bounds(replace(config.history, **entry.given))]
                for entry in config.topics
            ]
            + [[None, *_bounds(config.history), config.signature]]
        ).encode()
        self._keep = repr(config.key_ttl).encode()
        self._relaxed = _boolean(relaxed)
        self.append = _call(
            f"{at}flosse_bus_append",
            ("text", "text", "text", "bytea", "boolean", *_BOUNDS, *_KEEPING),
        )
        self.append_many = _call(
            f"{at}flosse_bus_append_many",
            ("text", "text[]", "text[]", "bytea[]", "boolean[]", "text[]", *_KEEPING),
        )
        self.settle = _call(f"{at}flosse_bus_settle", ("text", *_KEEPING))
        self.listen = _call(
            f"{at}flosse_bus_listen",
            ("text", "bigint", "text[]", "text", "integer", "bigint", "boolean"),
        )
        self.read = _call(
            f"{at}flosse_bus_read",
            ("text", "text[]", "text", "jsonb", "boolean"),
        )
        self.flush = _call(f"{at}flosse_bus_flush", ("text",))
        channel = "flosse_bus_" + md5(self._bus, usedforsecurity=False).hexdigest()[:16]
        self.hear = Query(text=f"LISTEN {channel}".encode())
        #: For a cursor of Django's.
        self.enlist = f"SELECT {at}flosse_bus_enlist(%s, %s::text[], %s::text[], %s::bytea[], "
        self.enlist += "%s::boolean[], %s::text[], %s::double precision)"

    def append_arguments(self, draft: Draft) -> Arguments:
        event = None if draft.event is None else draft.event.encode()
        topic, raw = draft.topic.encode(), _boolean(draft.text)
        kept = self._config.history_of(draft.topic)
        bounds = (_text(kept.size), _optional(kept.ttl), _optional(kept.max_bytes))
        return (self._bus, topic, event, draft.body, raw, *bounds, *self._keeping)

    def append_many_arguments(self, drafts: Sequence[Draft]) -> Arguments:
        topics = _array([draft.topic for draft in drafts])
        events = _array([draft.event for draft in drafts])
        raws = _array(["t" if draft.text else "f" for draft in drafts])
        bodies = _binary_array([draft.body for draft in drafts])
        keys = [draft.key for draft in drafts]
        claims = _array(keys) if any(keys) else None
        return (self._bus, topics, events, bodies, raws, claims, *self._keeping)

    def enlist_arguments(self, drafts: Sequence[Draft]) -> tuple[Any, ...]:
        keys = [draft.key for draft in drafts]
        return (
            self._config.key_prefix,
            [draft.topic for draft in drafts],
            [draft.event for draft in drafts],
            [draft.body for draft in drafts],
            [draft.text for draft in drafts],
            keys if any(keys) else None,
            self._config.key_ttl,
        )

    @property
    def _keeping(self) -> tuple[bytes, bytes, bytes]:
        return (self._history, self._keep, self._relaxed)

    def settle_arguments(self) -> Arguments:
        return (self._bus, *self._keeping)

    def listen_arguments(self, after: int, choice: Choice | None, *, anyway: bool) -> Arguments:
        topics, regex = (choice.topics, choice.regex) if choice is not None else (None, None)
        return (self._bus, _text(after), topics, regex, _ROWS, _BYTES, _boolean(anyway))

    def read_arguments(self, choice: Choice, *, anyway: bool) -> Arguments:
        topics, regex = choice.topics, choice.regex
        return (self._bus, topics, regex, self._history, _boolean(anyway))

    def flush_arguments(self) -> Arguments:
        return (self._bus,)


def _call(function: str, types: Sequence[str]) -> Query:
    arguments = ", ".join(f"${n}::{type}" for n, type in enumerate(types, 1))
    return Query(
        text=f"SELECT * FROM {function}({arguments})".encode(),  # noqa: S608  # because it is ours
        formats=[int(type.startswith("bytea")) for type in types],
    )


class Choice:
    """Topics as an array and patterns as a regular expression, as PostgreSQL wants them."""

    __slots__ = ("regex", "topics")

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        topics = ",".join(f'"{name}"' for name in names if not is_pattern(name))
        patterns = "|".join(_regex(name) for name in names if is_pattern(name))
        self.topics = f"{{{topics}}}".encode()
        self.regex = f"^(?:{patterns})$".encode() if patterns else None


def _anchored(pattern: str) -> str:
    return f"^(?:{_regex(pattern)})$"


def _bounds(history: History) -> tuple[int, float | None, int | None]:
    return history.size, history.ttl, history.max_bytes


def _regex(pattern: str) -> str:
    """Return what :func:`flosse_bus.topics.compile_pattern` makes of it, for topics only."""
    segments = pattern.split(".")
    last = len(segments) - 1
    return r"\.".join(
        (".*" if index else ".+")
        if segment == "**" and index == last
        else "[^.]*"
        if segment == "*"
        else segment
        for index, segment in enumerate(segments)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """How a log stands. ``tail`` is ``None`` if it has not begun."""

    tail: Cursor | None
    unsettled: bool


def heading(answer: PGresult) -> Heading:
    """Read the last row of what ``listen`` or ``read`` has answered."""
    row = answer.ntuples - 1
    epoch, position = answer.get_value(row, 4), answer.get_value(row, 5)
    tail = None if epoch is None or position is None else Cursor(epoch.decode(), _int(position))
    return Heading(tail=tail, unsettled=answer.get_value(row, 3) == b"\1")


def passed_over(answer: PGresult, after: int, names: Iterable[str], config: BusConfig) -> bool:
    """May topics have come and gone after a position, so that ``listen`` shows nothing of them?"""
    last = answer.ntuples - 1
    forgotten = _int(_sure(answer.get_value(last, 6)))
    by = json.loads(_sure(answer.get_value(last, 1)))
    if max(forgotten, *by.values(), 0) <= after:
        return False
    if _sure(answer.get_value(last, 2)).decode() != config.signature:
        return True  # its classes say nothing here
    lost_by = {int(number): at for number, at in by.items()}
    known = Snapshot(tail=Cursor("", 0), forgotten=forgotten, forgotten_by=lost_by)
    return any(known.forgotten_of(name, config) > after for name in names)


def appended(answer: PGresult, draft: Draft) -> Record | None:
    """Return what ``append`` has made of a draft, or ``None`` if it must be asked again."""
    if answer.get_value(0, 1) is None:
        return None
    epoch, position, previous, published_at = (_sure(answer.get_value(0, n)) for n in range(4))
    return draft.placed(
        epoch=epoch.decode(),
        position=_int(position),
        previous=_int(previous),
        published_at=_FLOAT.unpack(published_at)[0],
    )


def appended_many(answer: PGresult, drafts: Sequence[Draft]) -> list[Record] | Held | None:
    """Return what ``append_many`` has made of drafts.

    ``None`` if it must be asked again at once; :class:`Held` if later, because of a key.
    """
    if not answer.ntuples:
        return None
    value = answer.get_value
    if value(0, 5) is None:
        return Held(_sure(value(0, 1)).decode())
    found = []
    for row, draft in enumerate(drafts):
        if value(row, 0) is not None:  # its key was known
            found.append(_record(answer, row))
            continue
        found.append(
            draft.placed(
                epoch=_sure(value(row, 4)).decode(),
                position=_int(_sure(value(row, 5))),
                previous=_int(_sure(value(row, 6))),
                published_at=_FLOAT.unpack(_sure(value(row, 7)))[0],
            )
        )
    return found


def records(answer: PGresult) -> list[Record]:
    """Return the events that ``listen`` has answered."""
    return [_record(answer, row) for row in range(answer.ntuples - 1)]


def snapshot(answer: PGresult, tail: Cursor) -> Snapshot:
    """Return what ``read`` has answered."""
    topics: dict[str, TopicHistory] = {}
    for topic, rows in _by_topic(answer):
        first = rows.start
        previous = _int(_sure(answer.get_value(first, 6)))
        if answer.get_value(first, 5) is None:  # all expired: "previous" is the last event's place
            topics[topic] = TopicHistory(records=(), evicted=previous)
        else:
            floor = previous or _int(_sure(answer.get_value(first, 8)))
            head = _int(_sure(answer.get_value(first, 9)))
            topics[topic] = _history([_record(answer, row) for row in rows], floor, head)
    last = answer.ntuples - 1
    lost_by = _sure(answer.get_value(last, 1))
    return Snapshot(
        tail=tail,
        topics=topics,
        forgotten=_int(_sure(answer.get_value(last, 6))),
        forgotten_by={int(number): at for number, at in json.loads(lost_by).items()},
        ancestors=json.loads(_sure(answer.get_value(last, 2))),
    )


def _history(records: list[Record], floor: int, head: int) -> TopicHistory:
    """Keep what is without a hole, up to the topic's last event."""
    if records[-1].position != head:
        return TopicHistory(records=(), evicted=head)
    start = len(records) - 1
    while start and records[start].previous == records[start - 1].position:
        start -= 1
    evicted = records[start].previous if start else floor
    return TopicHistory(records=tuple(records[start:]), evicted=evicted)


def _by_topic(answer: PGresult) -> Iterator[tuple[str, range]]:
    last, start = answer.ntuples - 1, 0
    while start < last:
        topic, end = answer.get_value(start, 0), start + 1
        while end < last and answer.get_value(end, 0) == topic:
            end += 1
        yield _sure(topic).decode(), range(start, end)
        start = end


def _record(answer: PGresult, row: int) -> Record:
    value = answer.get_value
    event = value(row, 1)
    return Record(
        topic=_sure(value(row, 0)).decode(),
        event=None if event is None else name_of(event),
        body=body_of(value(row, 2) or b""),
        text=value(row, 3) == b"\1",
        epoch=_sure(value(row, 4)).decode(),
        position=_int(_sure(value(row, 5))),
        previous=_int(_sure(value(row, 6))),
        published_at=_FLOAT.unpack(_sure(value(row, 7)))[0],
    )


def _sure(value: bytes | None) -> bytes:
    if value is None:
        raise TypeError("PostgreSQL has answered NULL where there is no NULL.")
    return value


def _int(value: bytes) -> int:
    number: int = _INTEGER.unpack(value)[0]
    return number


def _text(number: int) -> bytes:
    return str(number).encode()


def _optional(number: float | None) -> bytes | None:
    return None if number is None else repr(number).encode()


def _array(values: Sequence[str | None]) -> bytes:
    return f"{{{','.join(map(_element, values))}}}".encode()


def _binary_array(values: Sequence[bytes]) -> bytes:
    """Return an array of bytea as PostgreSQL sends it: header, then each value after its length."""
    parts = [_ARRAY.pack(1, 0, _BYTEA, len(values), 1)]
    for value in values:
        parts += (_LENGTH.pack(len(value)), value)
    return b"".join(parts)


def _element(value: str | None) -> str:
    if value is None:
        return "NULL"
    escaped = _QUOTED.sub(r"\\\g<0>", value)
    return f'"{escaped}"'


_ROWS, _BYTES = _text(ROWS), _text(BYTES)


def _boolean(value: bool) -> bytes:
    return b"t" if value else b"f"
