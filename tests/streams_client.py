"""A client for many streams at once: one thread for all, and it shows how each of them ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from urllib.parse import urlencode

from flosse_bus.events import STATE
from tests.processes import DEADLINE, wait_until


async def read_head(reader, patience=DEADLINE):
    """Return status and headers of a response."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), patience)
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    headers = [line.partition(":")[::2] for line in lines]
    return int(first.split(" ", 2)[1]), {name.lower(): value.strip() for name, value in headers}


async def read_chunks(reader, patience=DEADLINE):
    """Yield the chunks of a body.

    Raises:
        OSError or IncompleteReadError: it was cut off before its last chunk.
        asyncio.TimeoutError: nothing has come for so many seconds.
    """
    while True:
        line = await asyncio.wait_for(reader.readline(), patience)
        if not line.endswith(b"\n"):
            raise asyncio.IncompleteReadError(line, None)
        size = int(line, 16)
        chunk = await asyncio.wait_for(reader.readexactly(size + 2), patience)
        if not size:
            return
        yield chunk[:-2]


async def read_rest(reader, patience=DEADLINE):
    """Yield the pieces of a body that ends with its connection. Raises the same, if it is reset."""
    while piece := await asyncio.wait_for(reader.read(65_536), patience):
        yield piece


async def read_blocks(reader, patience=DEADLINE, body=read_chunks):
    """Yield the blocks of an event stream, each as the dict of its fields. Raises the same."""
    buffer = b""
    async for chunk in body(reader, patience):
        *blocks, buffer = (buffer + chunk).split(b"\n\n")  # what is cut off in a block is no block
        for block in blocks:
            yield parse(block.decode())


def parse(block):
    fields = {}
    for line in block.split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        fields[name] = f"{fields[name]}\n{value}" if name in fields else value
    return fields


class Stream:
    """One stream, written by the client's thread and read by the test's."""

    def __init__(self, last_id):
        self.status = None
        self.headers = {}
        #: The events, of topics or of the stream: ``(event, data)``.
        self.events = []
        #: ``Last-Event-ID``.
        self.last_id = last_id
        self.begun = False
        #: How many blocks were comments, such as a generator stream's heartbeats.
        self.comments = 0
        #: "clean", "cut", or whatever else went wrong; ``None`` while it lasts.
        self.end = None
        self.ended_at = None
        self.transport = None

    @property
    def data(self):
        return [json.loads(data) for _, data in self.events]

    async def follow(self, head, patience, **where):
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(**where), patience)
            self.transport = writer.transport
            try:
                writer.write(head)
                self.status, self.headers = await read_head(reader, patience)
                if self.status == 200:
                    await self._read(reader, patience)
                self.end = "clean"
            finally:
                writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError):
            self.end = "cut"
        except Exception as error:
            self.end = repr(error)
        finally:
            self.ended_at = time.monotonic()

    async def _read(self, reader, patience):
        chunked = self.headers.get("transfer-encoding") == "chunked"
        body = read_chunks if chunked else read_rest
        async for fields in read_blocks(reader, patience, body):
            self.last_id = fields.get("id", self.last_id)
            self.comments += "" in fields
            name = fields.get("event", "message")
            if "data" in fields and name not in STATE:
                self.events.append((name, fields["data"]))
            self.begun = True


class Streams:
    """Opens streams to one server. Leaving the context cuts those that are left."""

    def __init__(self, port, *, host="127.0.0.1", patience=60, tls=None):
        self.port, self.host, self.patience, self.tls = port, host, patience, tls
        self.all = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self.cut(*self.all)
        wait_until(lambda: all(stream.end for stream in self.all), "the client's streams to end")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def open(self, *topics, count=1, after="", path="/events/", headers=(), socks=None):
        """Return this many streams. ``after`` is a ``Last-Event-ID``, or one for each.

        ``socks`` are connected sockets to use.
        """
        afters = [after] * count if isinstance(after, str) else after
        query = urlencode([("topic", topic) for topic in topics])
        lines = [f"GET {path}?{query} HTTP/1.1", f"Host: {self.host}", *headers]
        made = [Stream(last_id) for last_id in afters]
        for number, stream in enumerate(made):
            own = [f"Last-Event-ID: {stream.last_id}"] if stream.last_id else []
            where = {"sock": socks[number]} if socks else {"host": self.host, "port": self.port}
            if self.tls is not None:
                where |= {"ssl": self.tls, "server_hostname": self.host}
            head = "\r\n".join([*lines, *own, "", ""]).encode()
            following = stream.follow(head, self.patience, **where)
            asyncio.run_coroutine_threadsafe(following, self._loop)
        self.all += made
        return made

    def begin(self, *topics, **kwargs):
        """Open streams and wait until each has had its first block."""
        made = self.open(*topics, **kwargs)
        wait_until(lambda: all(s.begun or s.end for s in made), f"{len(made)} streams to begin")
        assert not (ends := [(s.status, s.end) for s in made if s.end]), ends[:3]
        return made

    def stalled(self, *topics, count=1, **kwargs):
        """Return streams whose clients read nothing more, and have no room for much."""
        socks = []
        for _ in range(count):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((self.host, self.port))
            sock.setblocking(False)
            socks.append(sock)
        made = self.begin(*topics, count=count, socks=socks, **kwargs)
        for stream in made:
            self._loop.call_soon_threadsafe(stream.transport.pause_reading)
        return made

    def cut(self, *streams):
        """Let these clients go, without a word."""
        for stream in streams:
            if stream.transport is not None:
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(stream.transport.abort)

    def stall(self, *streams):
        """Let these clients read nothing from now on."""
        for stream in streams:
            self._loop.call_soon_threadsafe(stream.transport.pause_reading)


class Slow:
    """A client that reads at a steady pace without a pause, so many bytes a second, in a thread."""

    def __init__(self, port, *topics, rate, path="/events/", sock=None):
        if sock is None:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", port))
        sock.settimeout(DEADLINE)
        if topics:
            path += "?" + urlencode([("topic", topic) for topic in topics])
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        self._socket, self._rate = sock, rate
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        #: Bytes.
        self.taken = 0
        #: Has the stream ended?
        self.ended = False

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._leaving.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _run(self):
        due = time.monotonic()
        while True:
            try:
                data = self._socket.recv(self._rate // 10)
            except OSError:
                data = b""
            if not data:
                self.ended = True
                return
            self.taken += len(data)
            due = max(due, time.monotonic() - 1) + len(data) / self._rate
            self._leaving.wait(due - time.monotonic())
