"""A TCP proxy that cuts connections, in the ways in which networks do it.

One port for each client, all in one thread with an event loop of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time

from tests.processes import free_port

HOST = "127.0.0.1"


class Loop:
    """The thread in which the proxies run."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, coroutine):
        """Run a coroutine in it, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)


class Connection:
    """One, from a client through to the server."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.forwarded = b""
        self.halving = False
        self.silent = False
        self.upstream = None
        self.task = None

    @property
    def open(self):
        return not self.task.done()

    def end(self, kind):
        """End it: as HTTP says ("end"), by "fin", by "rst", or by forwarding nothing ("silence")."""
        if kind == "silence":
            self.silent = True
            return
        if kind == "end":
            self.writer.write(b"0\r\n\r\n")  # the last chunk
        if kind == "rst":
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        else:
            self.writer.close()
        self.task.cancel()


class Cutter:
    """The proxy of one client, on one port for as long as it lives. Call it from any other thread."""

    def __init__(self, loop):
        self._loop = loop
        self.port = free_port()
        self.upstream = None
        self.connections = []
        #: When each connection was cut, and when the next one came.
        self.cuts, self.returns = [], []
        #: How many bytes clients have sent.
        self.asked = 0
        self._server = None
        self._pass = asyncio.Event()

    def __enter__(self):
        self.accept()
        return self

    def __exit__(self, *exc):
        self.refuse()
        self._loop.run(self._end_all())

    def point(self, upstream):
        """Begin anew, in front of this port."""
        self._loop.run(self._point(upstream))

    def accept(self):
        """Listen again."""
        self._loop.run(self._accept())

    def refuse(self):
        """Refuse connections that are new, as a port does on which nothing listens."""
        self._loop.run(self._refuse())

    def cut(self, kind):
        """Cut what is open. What comes then waits for ``release``."""
        self._loop.run(self._cut(kind))

    def halve_next(self):
        """Cut in the middle of what the server sends next."""
        self._loop.run(self._halve_next())

    def release(self):
        """Let through what waits, and what comes."""
        self._loop.run(self._release())

    def has_sent(self, part):
        """Return whether a connection that is open has carried it."""
        return any(part in each.forwarded for each in self.connections if each.open)

    # In the loop

    async def _point(self, upstream):
        await self._end_all()
        self.upstream = upstream
        self.connections, self.cuts, self.returns = [], [], []
        self._pass.set()

    async def _end_all(self):
        for connection in self.connections:
            if connection.open:
                connection.end("rst")
        await asyncio.gather(*(c.task for c in self.connections), return_exceptions=True)

    async def _accept(self):
        self._server = await asyncio.start_server(self._serve, HOST, self.port)

    async def _refuse(self):
        self._server.close()

    async def _cut(self, kind):
        self._pass.clear()
        self.cuts.append(time.monotonic())
        for connection in self.connections:
            if connection.open:
                connection.end(kind)

    async def _halve_next(self):
        self._pass.clear()
        for connection in self.connections:
            connection.halving = connection.open

    async def _release(self):
        self._pass.set()

    async def _serve(self, reader, writer):
        connection = Connection(reader, writer)
        connection.task = asyncio.current_task()
        if len(self.returns) < len(self.cuts):
            self.returns.append(time.monotonic())
        self.connections.append(connection)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            try:
                await self._pass.wait()
                upstream = await asyncio.open_connection(HOST, self.upstream)
                connection.upstream = upstream[1]
                pumps = [
                    asyncio.ensure_future(self._up(connection, upstream[1])),
                    asyncio.ensure_future(self._down(connection, upstream[0])),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
            finally:
                if connection.upstream is not None:
                    connection.upstream.close()
                writer.close()

    async def _up(self, connection, upstream):
        while piece := await connection.reader.read(65_536):
            self.asked += len(piece)
            if not connection.silent:
                upstream.write(piece)
                await upstream.drain()

    async def _down(self, connection, upstream):
        while True:
            piece = await upstream.read(65_536)
            if connection.silent:
                if not piece:
                    await asyncio.Event().wait()  # nobody is told
                continue
            if not piece:
                return
            if connection.halving and b"data: " in piece:
                piece = piece[: piece.index(b"data: ") + 12]
                connection.writer.write(piece)
                await connection.writer.drain()
                self.cuts.append(time.monotonic())
                connection.writer.close()
                return
            connection.forwarded = (connection.forwarded + piece)[-65_536:]
            connection.writer.write(piece)
            await connection.writer.drain()
