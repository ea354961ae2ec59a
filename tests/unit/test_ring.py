from __future__ import annotations

import weakref
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flosse_bus.ring import Ring


@dataclass(frozen=True)
class Item:
    position: int
    published_at: float = 0.0
    size: int = 0


def positions(ring, after=0, limit=None):
    return [item.position for item in ring.after(after, limit)]


def test_it_keeps_the_last_ones():
    ring = Ring(size=3, ttl=None)
    for position in (1, 4, 5, 9, 12):
        ring.append(Item(position))
    assert positions(ring) == [5, 9, 12]
    assert (ring.evicted, ring.head, len(ring)) == (4, 12, 3)


@pytest.mark.parametrize(
    ("after", "limit", "expected"),
    [(0, None, [5, 9, 12]), (5, None, [9, 12]), (6, None, [9, 12]), (12, None, []), (99, None, []),
     (0, 2, [5, 9]), (5, 1, [9])],
)  # fmt: skip
def test_reading_after_a_position(after, limit, expected):
    ring = Ring(size=3, ttl=None)
    for position in (1, 4, 5, 9, 12):
        ring.append(Item(position))
    assert positions(ring, after, limit) == expected
    assert [item.position for item in ring.iterate(after)][:limit] == expected


def test_old_items_expire():
    ring = Ring(size=10, ttl=5)
    for position, at in ((1, 0.0), (2, 3.0), (3, 9.0)):
        ring.append(Item(position, at))
    ring.expire(8.0)
    assert (positions(ring), ring.evicted) == ([2, 3], 1)
    ring.expire(100.0)
    assert (positions(ring), ring.evicted, ring.head) == ([], 3, 3)


def test_without_ttl_nothing_expires():
    ring = Ring(size=10, ttl=None)
    ring.append(Item(1))
    ring.expire(1e12)
    assert positions(ring) == [1]


def test_a_loss_takes_what_is_older():
    ring = Ring(size=10, ttl=None)
    for position in (1, 2, 3):
        ring.append(Item(position))
    ring.lose(2)
    assert (positions(ring), ring.evicted, ring.head) == ([3], 2, 3)
    ring.lose(8)
    assert (positions(ring), ring.evicted, ring.head) == ([], 8, 8)
    ring.lose(5)
    assert (ring.evicted, ring.head) == (8, 8)


@pytest.mark.parametrize("position", [3, 2, 0, -1])
def test_positions_must_rise(position):
    ring = Ring(size=10, ttl=None)
    ring.append(Item(3))
    with pytest.raises(ValueError, match="not after 3"):
        ring.append(Item(position))


@given(
    st.integers(1, 20),
    st.lists(st.one_of(st.integers(1, 5), st.tuples(st.just("lose"), st.integers(0, 200)))),
)
def test_it_always_holds_everything_after_evicted(size, steps):
    ring = Ring(size=size, ttl=None)
    model = []  # every position ever appended
    position = 0
    for step in steps:
        if isinstance(step, int):
            position = max(position, ring.head) + step
            ring.append(Item(position))
            model.append(position)
        else:
            ring.lose(step[1])
        assert positions(ring) == [p for p in model if p > ring.evicted]
        assert len(ring) <= size
        assert ring.head >= ring.evicted


@given(st.integers(1, 8), st.integers(1, 50), st.lists(st.integers(0, 60)))
def test_a_bound_in_bytes_keeps_the_newest_that_fit(size, max_bytes, sizes):
    ring = Ring(size=size, ttl=None, max_bytes=max_bytes)
    for position, one in enumerate(sizes, 1):
        ring.append(Item(position, size=one))
        kept = [position]
        for before in range(position - 1, 0, -1):
            if len(kept) == size or sum(sizes[p - 1] for p in [*kept, before]) > max_bytes:
                break
            kept.insert(0, before)
        assert positions(ring) == kept
        assert ring.evicted == kept[0] - 1


def test_what_does_not_fit_in_its_bytes_is_not_held():
    """However many events it might keep: the dead ones are a bounded part of it."""
    ring = Ring(size=1000, ttl=None, max_bytes=100)
    held = []
    for position in range(1, 200):
        item = Item(position, size=50)
        held.append(weakref.ref(item))
        ring.append(item)
        del item
    assert len(ring) == 2
    assert sum(reference() is not None for reference in held) <= 3


def test_items_expire_where_the_clock_was_ahead_and_where_it_was_set_back():
    ring = Ring(size=10, ttl=100)
    for position, at in enumerate((1000, 500, 700, 600, 650), 1):
        ring.append(Item(position, at))
    kept = {}
    for now in (600, 601, 700, 701, 750, 751):
        ring.expire(now)
        kept[now] = [item.position for item in ring.after(0)]
    assert kept == {
        600: [1, 2, 3, 4, 5], 601: [3, 4, 5], 700: [3, 4, 5], 701: [5], 750: [5], 751: [],
    }  # fmt: skip
    assert ring.evicted == 5
    ring.append(Item(6, 2000))
    ring.date(800)  # as others have been published since
    ring.expire(900)
    assert len(ring) == 1
    ring.expire(901)
    assert len(ring) == 0
