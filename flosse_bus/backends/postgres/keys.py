"""Publishing with idempotency keys: keys that are given twice, and keys that others have now."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...events import Draft

#: Seconds to wait for a transaction that has published with the same key.
PATIENCE = 4.0
#: Seconds between two tries: at first, and in the end.
SHORTEST, LONGEST = 0.002, 0.25


@dataclass(frozen=True, slots=True)
class Held:
    """Nothing was appended: another transaction, which may commit it or not, has this key."""

    key: str

    def __str__(self) -> str:
        return (
            f"a transaction has published with the idempotency key {self.key!r}, and has not ended "
            f"within {PATIENCE:g} s. Nothing was published: publish again when it has, with the "
            "same key. If it is your own transaction, publish in it, without using=None."
        )


def pauses() -> Iterator[float]:
    """Yield how long to wait before each next try, until it has been long enough.

    Waiting is done here, and not by PostgreSQL, so that neither a connection nor a thread of those
    that publishers share waits too. Nobody stands in line: a key is mostly wanted by two at most.
    """
    latest = time.monotonic() + PATIENCE
    pause = SHORTEST
    while (left := latest - time.monotonic()) > 0:
        yield min(left, pause * random.uniform(0.5, 1))
        pause = min(2 * pause, LONGEST)


def distinct(drafts: Sequence[Draft]) -> tuple[list[Draft], list[int]]:
    """Return the drafts without those that repeat a key, and for each where among these it is."""
    places: dict[str, int] = {}
    each: list[Draft] = []
    indexes = []
    for draft in drafts:
        place = len(each) if draft.key is None else places.setdefault(draft.key, len(each))
        if place == len(each):
            each.append(draft)
        indexes.append(place)
    return each, indexes
