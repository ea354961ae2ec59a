"""An ``EventSource`` of our own that writes down what it sees, and is cut and comes back."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from urllib.parse import urlencode

from flosse_bus.events import STATE
from tests.torture.topics import PATTERNS, TOPICS, covered

#: Who gets no answer for so long hangs, and so does a stream that says nothing, though its heartbeat
#: is a second. Servers wait for a broker less than that.
PATIENCE = 20.0


class Refused(Exception):
    """The server has answered something else than a stream."""


class Stream:
    """One stream. ``entries`` is what has happened to it, in order, each ``(kind, ...)``:

    ``("open", last_id, port)``, ``("mark", id)``, ``("event", id, envelope)``,
    ``("reset", id, topics, reason, time)``, ``("error", code)``.
    """

    def __init__(self, name, seed, ports, cut_after):
        self.random = random.Random(f"stream {name} {seed}")
        self.name = name
        self.ports = ports
        self.cut_after = cut_after
        self.names = self.random.sample(TOPICS, self.random.randint(1, 3))
        if self.random.random() < 0.15:
            self.names = [self.random.choice(PATTERNS), *self.names[:1]]
        self.names = list(dict.fromkeys(self.names))
        self.topics = set().union(*map(covered, self.names))
        # Some want everything from the beginning, whenever that is. Most begin now.
        self.last_id = "earliest" if self.random.random() < 0.1 else ""
        self.entries = []
        self.times = []  # when each of them was taken down
        self.counts = Counter()

    @property
    def place(self):
        """The epoch and position that it would resume from."""
        epoch, _, position = self.last_id.rpartition("-")
        return epoch, int(position) if position.isdecimal() else -1

    async def follow(self):
        """Come back for ever, to whichever server answers."""
        await asyncio.sleep(self.random.random())
        while True:
            try:
                await self._connect(self.random.choice(self.ports))
                self.counts["ended"] += 1
            except asyncio.TimeoutError:  # which is an OSError since Python 3.11
                self.counts["hung"] += 1
            except (OSError, asyncio.IncompleteReadError):
                self.counts["broken"] += 1
            except Refused as error:
                self.counts[f"refused {error}"] += 1
            await asyncio.sleep(self.random.uniform(0.05, 0.3))

    async def _connect(self, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            query = urlencode([("envelope", 1), *(("topic", name) for name in self.names)])
            head = f"GET /?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
            if self.last_id:
                head += f"Last-Event-ID: {self.last_id}\r\n"
            writer.write(f"{head}\r\n".encode())
            self._note(("open", self.last_id, port))
            await self._head(reader)
            # Not before: that a server has forgotten somebody would not show.
            cut = asyncio.get_running_loop().call_later(
                self.random.expovariate(1 / self.cut_after), self._cut, writer
            )
            try:
                await self._body(reader)
            finally:
                cut.cancel()
        finally:
            writer.transport.abort()

    def _note(self, entry):
        self.entries.append(entry)
        self.times.append(round(time.monotonic(), 3))

    def _cut(self, writer):
        self.counts["cut"] += 1
        writer.transport.abort()

    async def _head(self, reader):
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        status = int(head.split(b" ", 2)[1])
        if status != 200:
            raise Refused(status)
        self.counts["opened"] += 1

    async def _body(self, reader):
        buffer = b""
        while True:
            size = int(await asyncio.wait_for(reader.readline(), PATIENCE) or b"0", 16)
            buffer += (await asyncio.wait_for(reader.readexactly(size + 2), PATIENCE))[:-2]
            if not size:
                return
            *blocks, buffer = buffer.split(b"\n\n")  # what is cut off in a block is no block
            for block in blocks:
                self._take(block.decode())

    def _take(self, block):
        fields = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name in fields else value
        if "id" in fields:
            self.last_id = fields["id"]
        data = json.loads(fields["data"])  # no block of a bus's stream is without
        kind = fields.get("event", "message")
        if kind in STATE:
            if "id" in fields:
                self._note(("mark", self.last_id))
        elif kind == "message":
            self.counts["delivered"] += 1
            self._note(("event", self.last_id, data))
        elif kind == "stream-reset":
            self.counts["resets"] += 1
            entry = ("reset", self.last_id, data["topics"], data["reason"], time.monotonic())
            self._note(entry)
        else:
            self.counts[f"{kind} {data['code']}"] += 1
            self._note(("error", data["code"]))


class Streams:
    """All of them, in the running event loop."""

    def __init__(self, count, seed, ports, cut_after):
        self.all = [Stream(n, seed, ports, cut_after) for n in range(count)]
        self._tasks = []

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(stream.follow()) for stream in self.all]
        return self

    async def __aexit__(self, *exc):
        pending = set(self._tasks)
        while pending:  # until Python 3.12 wait_for() may swallow that it was cancelled
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=1)
        for task in self._tasks:
            if not task.cancelled():
                task.result()

    def behind(self, tail):
        """Return the streams that have not got as far as this cursor."""
        epoch, _, position = tail.rpartition("-")
        return [
            stream
            for stream in self.all
            if stream.place[0] != epoch or stream.place[1] < int(position)
        ]

    @property
    def counts(self):
        total = Counter()
        for stream in self.all:
            total.update(stream.counts)
        return total
