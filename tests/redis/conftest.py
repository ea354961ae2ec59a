from __future__ import annotations

import pytest


@pytest.fixture
def redis_url(redis_server):
    """The URL of an empty Redis."""
    redis_server.execute("FLUSHALL")
    return redis_server.url
