"""Requests to an ASGI application by hand: what a server does, and what its clients do to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

from flosse_bus import bus
from flosse_bus.asgi import get_asgi_application
from flosse_bus.events import STATE
from flosse_bus.wire import Decoder

DEADLINE = 20.0


async def eventually(condition, what="", deadline=DEADLINE):
    """Wait for a condition to hold, letting the loop work meanwhile."""
    end = time.monotonic() + deadline
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {deadline} s: {what}"
        await asyncio.sleep(0.002)
    return result


class Exchange:
    """One request, and whatever the application has sent in answer to it.

    ``send`` may be another function for the application to send by; ``sent`` is what ends up here.
    """

    def __init__(
        self, path, *, method="GET", headers=(), send=None, gone=False, address="127.0.0.1"
    ):
        path, _, query = path.partition("?")
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers],
            "client": (address, 1),
            "server": ("testserver", 80),
        }
        self.sent = []
        self._send = send or self.take
        self._asked = False
        self._gone = asyncio.Event()
        if gone:
            self._gone.set()
        self._decoder = Decoder()
        self._decoded = 0
        self._blocks = []
        self.task = None

    def start(self, application):
        self.task = asyncio.create_task(application(self.scope, self.receive, self._send))
        return self

    async def receive(self):
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def take(self, message):
        self.sent.append(message)

    def leave(self):
        """The client goes."""
        self._gone.set()

    @property
    def status(self):
        return self.sent[0]["status"] if self.sent else None

    @property
    def headers(self):
        return {name.decode().lower(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def pieces(self):
        return [message.get("body", b"") for message in self.sent[1:]]

    @property
    def complete(self):
        return bool(self.sent[1:]) and not self.sent[-1].get("more_body", False)

    @property
    def json(self):
        return json.loads(b"".join(self.pieces))

    @property
    def blocks(self):
        for piece in self.pieces[self._decoded :]:
            self._blocks += self._decoder.feed(piece)
            self._decoded += 1
        return self._blocks

    @property
    def events(self):
        """The events, of topics or of the stream: ``(event, data)``."""
        return [(block.event, block.data) for block in self.blocks if block.event not in STATE]

    @property
    def data(self):
        return [data for _, data in self.events]

    @property
    def last_id(self):
        return [block.id for block in self.blocks if block.id][-1]

    async def begun(self):
        """Wait for the first block with an id."""
        await eventually(lambda: self._done() or any(b.id for b in self.blocks), "a stream")
        assert self.status == 200, self.sent
        return self

    async def got(self, *data):
        """Wait for these data, and assert that they are all that has come."""
        await eventually(lambda: self._done() or len(self.data) >= len(data), data)
        assert self.data == list(data)
        return self

    async def over(self):
        """Wait for the application to return."""
        await asyncio.wait_for(asyncio.shield(self.task), DEADLINE)
        return self

    def _done(self):
        if self.task is not None and self.task.done():
            self.task.result()
            return True
        return False


class Site:
    """The project's application in the running loop, with the requests that are open."""

    def __init__(self, application=None):
        self.application = application or get_asgi_application()
        self.exchanges = []

    def ask(self, path, **kwargs):
        exchange = Exchange(path, **kwargs)
        self.exchanges.append(exchange)
        return exchange.start(self.application)

    async def get(self, path, **kwargs):
        return await self.ask(path, **kwargs).over()

    async def follow(self, path="/events/?topic=news", **kwargs):
        return await self.ask(path, **kwargs).begun()


@contextlib.asynccontextmanager
async def site(application=None):
    """At the end every client goes, and nothing may be left of any of them."""
    before = asyncio.all_tasks()
    site = Site(application)
    hub = bus.hubs.here()
    try:
        yield site
    finally:
        for exchange in site.exchanges:
            exchange.leave()
        await asyncio.gather(*(e.task for e in site.exchanges), return_exceptions=True)
    assert (hub.streams, len(bus.streams)) == (0, 0)
    await hub.aclose()
    await eventually(lambda: asyncio.all_tasks() <= before, "every task to end")
