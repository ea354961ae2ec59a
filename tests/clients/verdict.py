"""What a client's screen shows, held against what was published."""

from __future__ import annotations

import re
from dataclasses import dataclass

NUMBER = re.compile(r"<i>(\d+)</i>")

EXACT, TOLD, LOST = "exact", "reset", "lost"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``outcome`` is one of the three; ``detail`` says what is wrong."""

    outcome: str
    detail: str = ""


def numbers(entries):
    """Return the numbers of the events in their order, with ``None`` for each reset.

    A client that fetches its content again stands as if it had been told to.
    """
    found = []
    for entry in entries:
        if entry["kind"] == "refetch":
            found.append(None)
        if entry["kind"] != "event":
            continue
        if entry["event"] == "stream-reset":
            found.append(None)
        elif match := NUMBER.search(entry["data"]):
            found.append(int(match[1]))
    return found


def judge(entries, expected):
    """Hold what a client has seen against the numbers that were published while it listened.

    Every event once and in order is exact. Where some are missing, a reset must stand in the very
    place.
    """
    seen = numbers(entries)
    refetches = sum(entry["kind"] == "refetch" for entry in entries)
    if [number for number in seen if number is not None] == expected and (
        seen.count(None) == refetches
    ):
        return Verdict(outcome=EXACT)
    position, covered, wrong = 0, False, []
    for number in seen:
        if number is None:
            covered = True
            continue
        if number not in expected[position:]:
            wrong.append(f"{number} again or too late")
            continue
        at = expected.index(number, position)
        if at > position and not covered:
            wrong.append(f"{expected[position:at]} lost without a word")
        position, covered = at + 1, False
    if position < len(expected) and not covered:
        wrong.append(f"{expected[position:]} never came")
    if wrong:
        return Verdict(outcome=LOST, detail="; ".join(wrong))
    return Verdict(outcome=TOLD)
