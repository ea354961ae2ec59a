from __future__ import annotations

import pytest

from flosse_bus.cursor import Cursor, new_epoch
from flosse_bus.exceptions import InvalidCursor


@pytest.mark.parametrize("position", [0, 1, 42, 10**18])
def test_text_and_back(position):
    cursor = Cursor(new_epoch(), position)
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text",
    ["", "-", "abc", "abc-", "-5", "abc--5", "abc-05", "abc-5 ", " abc-5", "ABC-5", "abc-٣",
     "abc-1\n", "abc-" + "9" * 20, "a" * 33 + "-1", "abc-1-2", "abc-1.5", "abc-+1", "é-1"],
)  # fmt: skip
def test_anything_else_is_refused(text):
    with pytest.raises(InvalidCursor, match="is not a cursor"):
        Cursor.parse(text)


def test_epochs_differ():
    assert len({new_epoch() for _ in range(100)}) == 100
