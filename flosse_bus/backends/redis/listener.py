"""The one connection on which a process hears what is published.

Redis sends an event to the subscribers of its channel in the same step that appends it, and answers
each connection in order. So when the tail of the log was read at the same server before a ``PING``
was sent here, all that came before that tail has come before the ``PONG``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from ...cursor import Cursor
from ...events import Record
from ...exceptions import BackendUnavailable
from ...threads import in_thread
from ...topics import is_pattern
from ..base import Heard, Interruption, Listener
from .connections import TIMEOUT, Connections, describe, own, parse_info, run_of, without_info
from .records import Keys, parse_entry

if TYPE_CHECKING:
    from .backend import RedisBackend

logger = logging.getLogger("flosse_bus")

#: Records and bytes that may wait for the hub. Beyond it the hub reads the log instead.
MAX_INBOX = 10_000
MAX_INBOX_BYTES = 64 << 20


class RedisListener(Listener):
    """Connects with the first :meth:`watch`. Once it has failed it stays so."""

    def __init__(self, backend: RedisBackend, connections: Connections, keys: Keys) -> None:
        self._backend = backend
        self._connections = connections
        self._keys = keys
        self._connection: AbstractConnection | None = None
        self._connecting = asyncio.Lock()
        self._run = b""
        self._tasks: list[asyncio.Task[None]] = []
        self._subscribed: dict[bytes, asyncio.Future[None]] = {}
        # The names that each of them is for: two patterns may be one glob.
        self._wanted: dict[bytes, set[str]] = {}
        self._inbox: list[Record | Cursor] = []
        self._inbox_bytes = 0
        self._interrupted = False
        # What came last since the backend was told.
        self._last: Record | None = None
        self._ready = asyncio.Event()
        self._probe_wanted = asyncio.Event()
        self._answered = asyncio.Event()
        self._failure: BaseException | None = None
        self._closed = False

    # What to hear

    async def watch(self, names: Iterable[str]) -> None:
        names = list(names)
        if not names:
            return
        async with self._connecting:
            if self._connection is None:
                await self._connect()
        loop = asyncio.get_running_loop()
        wanted = {self._keys.channel(name): name for name in names}
        for name in names:
            self._wanted.setdefault(self._keys.channel(name), set()).add(name)
        fresh = [channel for channel in wanted if channel not in self._subscribed]
        for channel in fresh:
            self._subscribed[channel] = loop.create_future()
        for command, patterns in (("SUBSCRIBE", False), ("PSUBSCRIBE", True)):
            channels = [c for c in fresh if is_pattern(wanted[c]) is patterns]
            if channels:
                await self._send(command, *channels)
        await asyncio.wait([self._subscribed[c] for c in wanted], timeout=TIMEOUT)
        if self._failure is not None:
            raise self._unavailable(self._failure)
        if not all(self._subscribed[c].done() for c in wanted):
            self._fail(TimeoutError(f"no answer to SUBSCRIBE within {TIMEOUT:g} s"))
            raise self._unavailable("no answer to SUBSCRIBE")

    async def unwatch(self, names: Iterable[str]) -> None:
        names = list(names)
        for command, patterns in (("UNSUBSCRIBE", False), ("PUNSUBSCRIBE", True)):
            channels = [self._let_go(name) for name in names if is_pattern(name) is patterns]
            channels = [c for c in channels if self._subscribed.pop(c, None) is not None]
            if channels:
                await self._send(command, *channels)

    def _let_go(self, name: str) -> bytes:
        """Return the channel that only this name wanted, or nothing: two names may share a glob."""
        channel = self._keys.channel(name)
        others = self._wanted.get(channel, set())
        others.discard(name)
        if others:
            return b""
        self._wanted.pop(channel, None)
        return channel

    async def probe(self) -> None:
        self._probe_wanted.set()

    # What is heard

    async def __aiter__(self) -> AsyncIterator[Heard]:
        while True:
            await self._ready.wait()
            self._ready.clear()
            if self._closed:
                return
            inbox, self._inbox = self._inbox, []
            self._inbox_bytes = 0
            if self._interrupted:
                self._interrupted = False
                yield Interruption()
            batch: list[Record] = []
            for one in inbox:
                if isinstance(one, Record):
                    batch.append(one)
                    continue
                if batch:
                    yield batch
                    batch = []
                yield one
            if batch:
                yield batch
            if self._failure is not None and not self._inbox:
                raise self._unavailable(self._failure) from self._failure

    async def aclose(self) -> None:
        self._closed = True
        self._ready.set()
        # First, and waited for: a reader that is cancelled closes it too, but does not wait, and
        # TLS says goodbye before the socket is gone.
        if self._connection is not None:
            with contextlib.suppress(RedisError, OSError, asyncio.TimeoutError):
                await self._connection.disconnect()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # The connection

    async def _connect(self) -> None:
        # The tail first: it finds where the bus is, and leaves that where connections are made.
        await in_thread(self._backend.tail)
        connection = await in_thread(self._connections.listening_connection)
        try:
            await connection.connect()
            self._run = run_of(await _info(connection), connection)
        except BaseException as error:
            await connection.disconnect()
            if isinstance(error, (RedisError, OSError, asyncio.TimeoutError)):
                raise self._unavailable(error) from error
            raise
        self._connection = connection
        own(self)
        for work in (self._read(connection), self._keep_probing(connection)):
            self._tasks.append(asyncio.create_task(self._guard(work)))

    def fileno(self) -> int:
        """Return the descriptor of its socket, or -1: see :func:`connections.own`."""
        writer: asyncio.StreamWriter | None = getattr(self._connection, "_writer", None)
        socket = writer.get_extra_info("socket") if writer is not None else None
        return socket.fileno() if socket is not None else -1

    async def _guard(self, work: Any) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001  # because the hub is told, whatever it is
            self._fail(error)

    def _tell(self) -> None:
        """Let the backend know how far the log has been heard to go, before it asks that itself."""
        last, self._last = self._last, None
        if last is not None:
            self._backend.saw(last.cursor)

    def _fail(self, error: BaseException) -> None:
        self._tell()
        self._failure = self._failure or error
        self._ready.set()
        for future in self._subscribed.values():
            if not future.done():
                future.set_result(None)

    async def _send(self, *command: str | bytes) -> None:
        if self._connection is None or self._failure is not None:
            raise self._unavailable(self._failure or "not connected")
        try:
            await asyncio.wait_for(self._connection.send_command(*command), TIMEOUT)
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            self._fail(error)
            raise self._unavailable(error) from error

    async def _read(self, connection: AbstractConnection) -> None:
        # Nothing here waits while there is something to read, so a burst makes one batch.
        while True:
            self._take(await connection.read_response(disable_decoding=True))

    def _take(self, reply: Any) -> None:
        kind = reply[0] if isinstance(reply, list) else b"pong"
        if kind == b"message":
            self._put(parse_entry(self._keys.topic(reply[1]), reply[2]), len(reply[2]))
        elif kind == b"pmessage":
            self._put(parse_entry(self._keys.topic(reply[2]), reply[3]), len(reply[3]))
        elif kind in (b"subscribe", b"psubscribe"):
            future = self._subscribed.get(reply[1])
            if future is not None and not future.done():
                future.set_result(None)
        elif kind == b"pong":
            payload = reply[1] if isinstance(reply, list) else reply
            self._answered.set()
            self._put(Cursor.parse(payload.decode()), 0)

    def _put(self, one: Record | Cursor, size: int) -> None:
        if isinstance(one, Record):
            if len(self._inbox) >= MAX_INBOX or self._inbox_bytes + size > MAX_INBOX_BYTES:
                self._inbox = []
                self._inbox_bytes = 0
                self._interrupted = True
            last = self._inbox[-1] if self._inbox else None
            if last is not None and isinstance(last, Record) and last.cursor == one.cursor:
                return  # it came by another channel as well
            self._last = one
        self._inbox.append(one)
        self._inbox_bytes += size
        self._ready.set()

    async def _keep_probing(self, connection: AbstractConnection) -> None:
        # Not for ever: wait_for() may hide that the task was cancelled before Python 3.12.
        while not self._closed:
            await self._probe_wanted.wait()
            self._probe_wanted.clear()
            self._tell()
            tail, run = await in_thread(self._backend.tail_and_run)
            if run != self._run:
                raise BackendUnavailable(
                    "the bus has moved to another server, or that was restarted"
                )
            self._answered.clear()
            await self._send("PING", str(tail))
            await asyncio.wait_for(self._answered.wait(), TIMEOUT)

    def _unavailable(self, error: object) -> BackendUnavailable:
        if isinstance(error, BackendUnavailable):
            return error
        text = describe(error) if isinstance(error, BaseException) else error
        return BackendUnavailable(f"bus {self._backend.config.alias!r}: Redis: {text}")


async def _info(connection: AbstractConnection) -> dict[bytes, bytes]:
    await connection.send_command("INFO", "server")
    try:
        reply = await asyncio.wait_for(connection.read_response(disable_decoding=True), TIMEOUT)
    except ResponseError as error:
        return without_info(error)
    return parse_info(reply)
