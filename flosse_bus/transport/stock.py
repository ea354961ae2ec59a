"""Streams under Django's own handlers: an async iterator for ASGI, a blocking one for WSGI.

Both read the same way; only the waiting differs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import connections

from ..access import Refusal
from ..exceptions import BackendUnavailable
from ..readers import AsyncReader, ThreadReader
from ..refusals import UNREACHABLE
from . import shutdown
from .line import Line
from .peer import PIECE, Peer, pieces
from .servers import find_stock_connection
from .stream import WITHDRAWN, Stream

_DOWN = Refusal(status=503, detail=UNREACHABLE)


async def aframes(stream: Stream) -> AsyncIterator[bytes]:
    """Yield the bytes of a stream in the running event loop."""
    shutdown.install()
    patience: Patience | None = None
    try:
        await sync_to_async(release_connections)()
        try:
            reader = await AsyncReader.open(
                stream.bus.hubs.here(), stream.names, after=stream.after, heartbeat=stream.heartbeat
            )
        except BackendUnavailable as error:
            stream.refused(error)
            yield stream.refusal(_DOWN)
            return
        stream.begin(reader)
        patience = Patience(reader, stream.bus.config.send_timeout)
        while items := await reader.read():
            if stream.access.overdue:
                refusal = await sync_to_async(recheck)(stream)
                if refusal is not None:
                    stream.leave(WITHDRAWN)
                    with patience:
                        yield stream.error(refusal)
                    return
            for number, piece in enumerate(pieces(stream.encode(items), PIECE)):
                if number:
                    # Others have small events to send, and who goes meanwhile shall be noticed.
                    await asyncio.sleep(0)
                    if reader.subscription.closed is not None:
                        return
                with patience:
                    yield piece
            if stream.over:
                stream.leave("lifetime")
                return
        if last := stream.farewell(reader.subscription):
            yield last
    except Exception:
        stream.leave("error")
        raise
    finally:
        if patience is not None:
            patience.close()
        stream.close()


class Patience:
    """A context for each ``yield`` to Django's ASGI handler: a client that takes nothing for so
    many seconds is given up, as if the server had said that it has gone. And then :meth:`close` it.
    """

    #: Django's own task for a response, which not all versions have. No other is ours to cancel.
    _TASK = f"{ASGIHandler.handle.__qualname__}.<locals>.process_request"

    def __init__(self, reader: AsyncReader, seconds: float) -> None:
        self._reader = reader
        task = asyncio.current_task()
        own = task is not None and getattr(task.get_coro(), "__qualname__", None) == self._TASK
        self._task = task if own else None
        connection = find_stock_connection()
        self._drop = None if connection is None else connection.drop
        self._line = Line(self, connection, seconds)

    def __enter__(self) -> None:
        if self._task is not None or self._drop is not None:
            self._line.wait()

    def __exit__(self, *exc: object) -> None:
        self._line.done()

    @property
    def stopping(self) -> bool:
        return self._reader.stopping

    def lose(self) -> None:
        """The client takes nothing any more."""
        self._reader.give_up("send timeout")
        if self._drop is not None:
            self._drop()
        if self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        """The stream is over. Again is harmless."""
        self._line.close()


def frames(stream: Stream) -> Iterator[bytes]:
    """Yield the bytes of a stream, blocking the thread in between."""
    config = stream.bus.config
    try:
        release_connections()
        try:
            thread = stream.bus.hubs.threaded()
            reader = ThreadReader(
                thread, stream.names, after=stream.after, heartbeat=stream.heartbeat
            )
        except BackendUnavailable as error:
            stream.refused(error)
            yield stream.refusal(_DOWN)
            return
        stream.begin(reader)
        with closing(Peer(thread, reader, stream.environ, config.send_timeout)) as peer:
            while items := reader.read():
                if stream.access.overdue:
                    refusal = recheck(stream)
                    if refusal is not None:
                        stream.leave(WITHDRAWN)
                        with peer:
                            yield stream.error(refusal)
                        return
                for piece in pieces(stream.encode(items), PIECE):
                    with peer:
                        yield piece
            if last := stream.farewell(reader.subscription):
                with peer:
                    yield last
    except Exception:
        stream.leave("error")
        raise
    finally:
        stream.close()


def release_connections() -> None:
    """Close this thread's database connections: a stream needs none and may last for days."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


def recheck(stream: Stream) -> Refusal | None:
    """Ask again whether the stream may go on. Sync code: it may use the ORM."""
    try:
        return stream.access.recheck()
    finally:
        release_connections()
