"""Requests that only say that they want a stream keep no stream from opening."""

from __future__ import annotations

import asyncio

import pytest
from django.http import HttpResponse
from django.urls import include, path

from flosse_bus.transport import turns
from tests.asgi import Exchange, eventually, site

ACCEPT = [("accept", "text/event-stream")]


class Unfinished(Exchange):
    """Its body never comes, or only the beginning of it."""

    begun_reading = False

    async def receive(self):
        if not self.begun_reading:
            self.begun_reading = True
            return {"type": "http.request", "body": b"x", "more_body": True}
        await self._gone.wait()
        return {"type": "http.disconnect"}


@pytest.fixture
def patient(monkeypatch):
    """Nobody's turn ends by itself."""
    monkeypatch.setattr(turns, "LONGEST", 1000)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_bodies_that_never_come_keep_no_stream_from_opening(run, patient, method):
    async def main():
        async with site() as here:
            requests = [
                Unfinished("/anything/", method=method, headers=ACCEPT).start(here.application)
                for _ in range(turns.AT_ONCE)
            ]
            await eventually(lambda: all(each.begun_reading for each in requests))
            stream = here.ask("/events/?topic=news", headers=ACCEPT)
            await stream.begun()
            for each in requests:
                each.leave()
                await each.over()

    run(main())


class Slow:
    """A view that is long at its work and no stream, and where it is."""

    def __init__(self):
        self.at_work = 0
        self.over = asyncio.Event()
        self.urlpatterns = [path("slow/", self.view), path("events/", include("flosse_bus.urls"))]

    async def view(self, request):
        self.at_work += 1
        await self.over.wait()
        return HttpResponse("done")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_views_that_take_long_and_do_not_stream_keep_no_stream_from_opening(
    run, settings, monkeypatch, method
):
    """Clients of MCP say with each POST that they take a stream, too: those get no turn at all."""
    monkeypatch.setattr(turns, "LONGEST", 0.05 if method == "GET" else 1000)
    count = 3 * turns.AT_ONCE

    async def main():
        settings.ROOT_URLCONF = slow = Slow()
        settings.MIDDLEWARE = []  # which would ask for a token
        async with site() as here:
            requests = [here.ask("/slow/", method=method, headers=ACCEPT) for _ in range(count)]
            await eventually(lambda: slow.at_work == count, "all to be at work")
            stream = here.ask("/events/?topic=news", headers=ACCEPT)
            await stream.begun()
            slow.over.set()
            for each in requests:
                await each.over()
                assert each.status == 200

    run(main())


def test_a_turn_that_has_run_out_is_given_back_once(run, settings, monkeypatch):
    """Else more and more would be let in at once."""
    monkeypatch.setattr(turns, "LONGEST", 0.01)

    async def main():
        settings.ROOT_URLCONF = slow = Slow()
        async with site() as here:
            requests = [here.ask("/slow/", headers=ACCEPT) for _ in range(2 * turns.AT_ONCE)]
            await eventually(lambda: slow.at_work == len(requests), "all to be at work")
            slow.over.set()
            for each in requests:
                await each.over()
            monkeypatch.setattr(turns, "LONGEST", 1000)
            slow.over.clear()
            slow.at_work = 0
            requests = [here.ask("/slow/", headers=ACCEPT) for _ in range(2 * turns.AT_ONCE)]
            await eventually(lambda: slow.at_work >= turns.AT_ONCE, "some to be at work")
            assert slow.at_work == turns.AT_ONCE
            slow.over.set()
            for each in requests:
                await each.over()

    run(main())
