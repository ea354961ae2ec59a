"""Under Django's own ASGI handler: a client that takes nothing does not keep its stream."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIHandler

from flosse_bus import buses

pytestmark = pytest.mark.skipif(
    "process_request" not in inspect.getsource(ASGIHandler.handle),
    reason="this Django sends in a task that is the server's",
)

SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "path": "/events/",
    "query_string": b"topic=news",
    "headers": [(b"host", b"testserver")],
}


class Client:
    """Takes the head and the first piece of the body, and then nothing more."""

    def __init__(self):
        self.asked = False
        self.taken = []

    async def receive(self):
        if self.asked:
            await asyncio.Event().wait()
        self.asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message):
        if len(self.taken) == 2:
            await asyncio.Event().wait()
        self.taken.append(message)


def test_a_client_that_takes_nothing_is_given_up_after_send_timeout(run, configure, caplog):
    configure(SEND_TIMEOUT=0.2, PUBLIC_TOPICS=["news"])

    async def main():
        client = Client()
        application = asyncio.ensure_future(
            get_asgi_application()(SCOPE, client.receive, client.send)
        )
        bus = buses["default"]
        # On a slow machine the client may be given up before there is an event for it.
        while not application.done():
            await bus.apublish("news", 1, using=None)
            await asyncio.sleep(0.01)
        await application
        assert len(client.taken) <= 2
        assert (bus.hubs.streams, len(bus.streams)) == (0, 0)
        assert bus.hubs.counters["timeouts"] == 1
        assert "send timeout" in caplog.text

    run(main())


def test_only_djangos_own_task_is_given_up(run, configure):
    """Whoever iterates a stream, as tests do, may take as long as they like between two events."""
    configure(SEND_TIMEOUT=0.01, PUBLIC_TOPICS=["news"])

    async def main():
        from django.test import AsyncClient

        response = await AsyncClient().get("/events/", {"topic": "news"})
        chunks = aiter(response.streaming_content)
        await anext(chunks)
        bus = buses["default"]
        for number in range(3):
            await bus.apublish("news", number, using=None)
            assert b"data: %d" % number in await anext(chunks)
            await asyncio.sleep(0.05)
        assert bus.hubs.counters["timeouts"] == 0
        await chunks.aclose()

    run(main())


def test_what_is_big_is_sent_in_pieces_and_others_have_their_turn(run, configure):
    """Or who goes meanwhile would be noticed only after all of it was written to nobody."""
    configure(PUBLIC_TOPICS=["news"])

    async def main():
        from django.test import AsyncClient

        response = await AsyncClient().get("/events/", {"topic": "news"})
        chunks = aiter(response.streaming_content)
        await anext(chunks)
        bus = buses["default"]
        await bus.apublish("news", "x" * 900_000, using=None)
        turns = 0

        async def work():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        working = asyncio.ensure_future(work())
        sizes = []
        while sum(sizes) < 900_000:
            sizes.append(len(await anext(chunks)))
            assert len(sizes) <= turns + 1
        working.cancel()
        assert max(sizes) == 65_536
        bus.hubs.end_all("shutdown")
        assert [chunk async for chunk in chunks] == []

    run(main())
