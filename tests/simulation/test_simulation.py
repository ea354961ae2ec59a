"""Hubs, clients and faults, driven by a seed: each stream is told everything once, or of its loss.

A failure names its seed, which repeats it: ``FLOSSE_SEED=170 make test ARGS=tests/simulation``.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from tests import TORTURE
from tests.simulation.mistakes import made
from tests.simulation.run import Find, Run

#: Seconds for seeds that nobody has tried before. ``make test`` tries none: what it finds must not
#: depend on luck.
SECONDS = float(os.environ.get("FLOSSE_SIMULATION", 1800 if TORTURE else 0))
SEED = os.environ.get("FLOSSE_SEED")
#: Seeds that have found something.
FOUND = (261, 104575)


@pytest.mark.skipif(SEED is not None, reason="FLOSSE_SEED is to be run alone")
def test_known_seeds():
    for seed in (*range(150), *FOUND):
        Run(seed).go()


@pytest.mark.skipif(SEED is None and not SECONDS, reason="only make torture tries other seeds")
@pytest.mark.timeout(SECONDS + 60)
def test_random_seeds():
    if SEED is not None:
        Run(int(SEED)).go()
        return
    end, seeds, counts = time.monotonic() + SECONDS, random.SystemRandom(), None
    while time.monotonic() < end:
        run = Run(seeds.randrange(1 << 40)).go()
        counts = run.counts if counts is None else counts + run.counts
        counts["seeds"] += 1
    print(*sorted(counts.items()), sep="\n")


def test_a_seed_repeats_a_run_exactly():
    for seed in range(8):
        assert Run(seed).go().digest == Run(seed).go().digest


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("dropped topics come back", 413),
        ("streams ahead stay", 166),
        ("patterns forget", 2317),
        ("records come twice", 89),
        ("cancelled openings are watched", 5),
    ],
)
def test_an_old_mistake_is_found(name, seed):
    """If something changes what seeds do, look for others among some thousand."""
    Run(seed).go()
    with made(name), pytest.raises(Find, match=f"seed {seed}:"):
        Run(seed).go()
