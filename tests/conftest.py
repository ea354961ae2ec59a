"""Fixtures for the whole suite. Whoever needs a server, broker or browser asks for it by name."""

from __future__ import annotations

import asyncio
import os

import pytest

from flosse_bus import buses


def missing(what: str) -> None:
    """Skip with a reason, but fail in CI: there everything must be present."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} (a failure because CI is set)", pytrace=False)
    pytest.skip(what)


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
