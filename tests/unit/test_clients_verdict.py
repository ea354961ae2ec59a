"""The oracle of the matrix of clients."""

from __future__ import annotations

import pytest

from tests.clients.verdict import judge

R = None


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        ([1, 2, 3, 4], "exact"),
        ([1, 2, 3], "lost"),
        ([1, 2, 4], "lost"),
        ([1, 2, 2, 3, 4], "lost"),
        ([2, 1, 3, 4], "lost"),
        ([], "lost"),
        ([1, R, 4], "reset"),
        ([R, 3, 4], "reset"),
        ([1, 2, 3, R], "reset"),
        ([R, 1, 2, 3, 4], "reset"),
        ([1, R, 2, 4], "lost"),  # it stands where nothing is missing
        ([1, R, 3, 3, 4], "lost"),
    ],
)
def test_what_is_missing_must_be_told_in_its_place(seen, outcome):
    entries = [
        {"kind": "event", "event": "stream-reset", "data": "{}"}
        if number is None
        else {"kind": "event", "event": "message", "data": f"<i>{number}</i>"}
        for number in seen
    ]
    assert judge(entries, [1, 2, 3, 4]).outcome == outcome
