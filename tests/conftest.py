"""Fixtures for the whole suite. Whoever needs a server, broker or browser asks for it by name."""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import settings as hypothesis_settings

from flosse_bus import buses
from tests import TORTURE

# The suite tries the same examples every time; make torture tries new ones, and many. No deadline:
# no test asserts a speed.
hypothesis_settings.register_profile("suite", derandomize=not TORTURE, deadline=None)
hypothesis_settings.load_profile("suite")


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
