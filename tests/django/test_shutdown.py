"""Servers that stop in ways of their own. Signals as such: test_middleware.py."""

from __future__ import annotations

import asyncio
import signal
from types import SimpleNamespace

import pytest

from flosse_bus.transport import shutdown
from tests.asgi import Exchange, eventually, site


@pytest.fixture
def handler():
    """Put a handler for SIGTERM where a server would."""
    before = signal.getsignal(signal.SIGTERM)
    yield lambda function: signal.signal(signal.SIGTERM, function)
    signal.signal(signal.SIGTERM, before)


class Reactor:
    """Twisted's, as far as it matters: it cuts connections as soon as it is told to stop."""

    __module__ = "twisted.internet.anything"

    def __init__(self, stop):
        self._stop = stop

    def sig_term(self, number, frame=None):
        self._stop()


def test_a_reactor_is_told_when_the_streams_have_ended(run, handler):
    told = []

    async def main():
        handler(Reactor(lambda: told.append([s.complete for s in here.exchanges])).sig_term)
        async with site() as here:
            for _ in range(3):
                await here.follow()
            signal.raise_signal(signal.SIGTERM)
            await eventually(lambda: told, "the reactor to be told")
            assert told == [[True] * 3]

    run(main())


def test_a_reactor_is_told_soon_in_any_case(run, handler, monkeypatch):
    monkeypatch.setattr(shutdown, "PATIENCE", 0.05)
    told = []

    async def main():
        handler(Reactor(lambda: told.append(True)).sig_term)
        async with site() as here:
            stuck = asyncio.Event()

            async def send(message):
                if stream.sent:
                    await stuck.wait()
                await stream.take(message)

            stream = Exchange("/events/?topic=news", send=send)
            here.exchanges.append(stream)
            stream.start(here.application)
            await eventually(lambda: stream.sent, "the head")
            signal.raise_signal(signal.SIGTERM)
            await eventually(lambda: told, "the reactor to be told")
            assert not stream.complete
            stuck.set()

    run(main())


def test_without_a_loop_a_reactor_is_told_at_once(handler):
    told = []
    handler(Reactor(lambda: told.append(True)).sig_term)
    shutdown.install()
    signal.raise_signal(signal.SIGTERM)
    assert told == [True]


class Hypercorn(Exchange):
    """Its workers get no signal. There is an event on what their ``send`` belongs to."""

    def __init__(self, path):
        super().__init__(path, send=self.app_send)
        self.context = SimpleNamespace(terminated=asyncio.Event())

    async def app_send(self, message):
        await self.take(message)


def test_hypercorn_is_followed(run):
    async def main():
        async with site() as here:
            stream = Hypercorn("/events/?topic=news")
            here.exchanges.append(stream)
            await stream.start(here.application).begun()
            other = await here.follow()
            stream.context.terminated.set()
            for one in (stream, other):
                await one.over()
                assert one.complete

    run(main())


def test_ctrl_c_as_python_has_it_is_left_to_the_server():
    """Some servers take it over only where nobody else has."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        shutdown.install()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
