"""A cursor is a place in the log of a bus: the log's epoch and a position in it.

Its text is what a browser keeps as ``Last-Event-ID``. It is opaque everywhere else: only this
file knows how it is written.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from .exceptions import InvalidCursor

#: In place of a cursor: from the oldest event that is still kept.
EARLIEST = "earliest"

_TEXT = re.compile(r"([0-9a-z]{1,32})-(0|[1-9][0-9]{0,18})", re.ASCII)


def new_epoch() -> str:
    """Return the identity of a new log: 12 characters, 48 random bits."""
    return secrets.token_hex(6)


@dataclass(frozen=True, slots=True, order=False)
class Cursor:
    """``position`` 0 is before the first event of the log; 1 is the first event."""

    epoch: str
    position: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.position}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read a cursor's text.

        Raises:
            InvalidCursor: the text is not a cursor, whatever its epoch.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise InvalidCursor(
                f"{text[:80]!r} is not a cursor. Use an Event's id, bus.cursor(), or 'earliest'."
            )
        return cls(match[1], int(match[2]))


def descends(tail: Cursor, ancestors: Mapping[str, int], cursor: Cursor) -> bool:
    """Is ``cursor`` a place in the log that ends at ``tail`` and has gone on from ``ancestors``?"""
    end = tail.position if cursor.epoch == tail.epoch else ancestors.get(cursor.epoch, -1)
    return cursor.position <= end
