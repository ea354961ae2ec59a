"""How the bus writes to Redis: names of keys and channels, entries, patterns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...cursor import Cursor
from ...events import Draft, Record, body_of, name_of
from ...topics import is_pattern
from ..base import Snapshot, TopicHistory

if TYPE_CHECKING:
    from ...conf import BusConfig, History

_LUA_MAGIC = frozenset("^$()%.[]*+-?")


class Keys:
    """The names of one bus. The braces keep all its keys in one slot of a Redis Cluster."""

    def __init__(self, prefix: str) -> None:
        self.log = f"{{{prefix}}}:log"
        self.heads = f"{{{prefix}}}:heads"
        self.streams = f"{{{prefix}}}:s:"
        self.channels = f"{{{prefix}}}:c:"
        self.keys = f"{{{prefix}}}:k:"
        self._strip = len(self.channels.encode())

    def channel(self, name: str) -> bytes:
        """Return the channel of a topic, or of a pattern the glob that covers its channels.

        The glob covers more: its ``*`` crosses segments.
        """
        return (self.channels + name.replace("**", "*")).encode()

    def topic(self, channel: bytes) -> str:
        return channel[self._strip :].decode()


def of_classes(config: BusConfig) -> str:
    """Return what the publishing script is told of ``TOPICS``: signature, patterns for Lua."""
    return "\n".join([config.signature, *(_lua_pattern(entry.pattern) for entry in config.topics)])


def of_topic(topic: str, history: History) -> tuple[str | int, ...]:
    """Return what the publishing script is told of a topic."""
    ttl = 0 if history.ttl is None else max(1, int(history.ttl * 1000))
    return topic, history.size, ttl, history.max_bytes or 0


def of_event(draft: Draft) -> tuple[str | bytes, ...]:
    """Return what the publishing script is told of an event."""
    kind = "t" if draft.text else "j"
    name = f"{kind}- " if draft.event is None else f"{kind}e {draft.event}"
    return draft.topic, name, draft.body, draft.key or ""


def placed(draft: Draft, answer: bytes, epoch: str, at: float) -> Record:
    """Return the record of a draft, from what the publishing script says of it."""
    topic, line, entry = answer.partition(b"\n")
    if line:  # its key was known
        return parse_entry(topic.decode(), entry)
    position, _, previous = answer.partition(b" ")
    return draft.placed(
        epoch=epoch, position=int(position), previous=int(previous), published_at=at
    )


def parse_entry(topic: str, entry: bytes) -> Record:
    """Read what the publishing script has written."""
    return _parse(topic, entry)[0]


def _parse(topic: str, entry: bytes) -> tuple[Record, int]:
    head, _, body = entry.partition(b"\n")
    epoch, position, previous, floor, at, flags, event = head.split(b" ", 6)
    record = Record(
        topic=topic,
        event=name_of(event) if flags[1:] == b"e" else None,
        body=body_of(body),
        text=flags[:1] == b"t",
        epoch=epoch.decode(),
        position=int(position),
        previous=int(previous),
        published_at=float(at),
    )
    return record, int(floor)


def parse_ancestors(text: bytes) -> Mapping[str, int]:
    lines = (line.split(b" ") for line in text.splitlines())
    return {epoch.decode(): int(position) for epoch, position in lines}


def parse_snapshot(reply: Any, config: BusConfig) -> Snapshot:
    """Read the answer of the reading script."""
    epoch, position, forgotten, by, ancestors, now, topics = reply
    signature, lost_by = _parse_losses(by.decode())
    lost = int(forgotten)
    if signature != config.signature:  # its classes say nothing here
        lost, lost_by = max(lost, *lost_by.values(), 0), {}
    return Snapshot(
        tail=Cursor(epoch.decode(), int(position)),
        topics={
            topic: _history(topic, int(head), entries, float(now), config.history_of(topic))
            for topic, head, entries in ((name.decode(), *rest) for name, *rest in topics)
        },
        forgotten=lost,
        forgotten_by=lost_by,
        ancestors=parse_ancestors(ancestors),
    )


def _parse_losses(text: str) -> tuple[str, dict[int, int]]:
    signature, *classes = text.split(" ")
    pairs = (one.split(":") for one in classes)
    return signature, {int(number): int(position) for number, position in pairs}


def _history(
    topic: str, head: int, entries: Sequence[bytes], now: float, history: History
) -> TopicHistory:
    oldest = None if history.ttl is None else now - history.ttl
    records: list[Record] = []
    # Without a stream all is lost. Its first entry tells what was lost before it.
    evicted = head
    for entry in entries:
        record, floor = _parse(topic, entry)
        if oldest is not None and record.published_at < oldest:
            # With all before it, whatever their dates say: a clock may have been set back, and what
            # is kept is without a hole.
            records.clear()
            evicted = head
            continue
        if not records:
            evicted = max(record.previous, floor)
        records.append(record)
    return TopicHistory(records=tuple(records), evicted=evicted)


def split(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the topics among the names, and the patterns as Lua patterns."""
    return (
        [name for name in names if not is_pattern(name)],
        [_lua_pattern(name) for name in names if is_pattern(name)],
    )


def _lua_pattern(pattern: str) -> str:
    segments = pattern.split(".")
    parts = []
    for index, segment in enumerate(segments):
        if segment == "**":
            parts.append(".*" if index else ".+")
        elif segment == "*":
            parts.append("[^.]*")
        else:
            parts.append("".join(f"%{c}" if c in _LUA_MAGIC else c for c in segment))
    return f"^{'%.'.join(parts)}$"
