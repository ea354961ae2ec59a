"""A generator's stream, sent by our ASGI application itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, MutableMapping
from typing import Any

from .generated import GeneratorStream, aframes, logger
from .peer import FAREWELL, limit_unacknowledged
from .servers import Connection, Send
from .stepping import DONE, rest


async def send_generated(
    stream: GeneratorStream,
    head: MutableMapping[str, Any],
    send: Send,
    gone: asyncio.Future[None],
    connection: Connection | None,
) -> None:
    """Send the head and whatever the generator yields, until it, its client or the server ends."""
    if connection is not None and connection.socket is not None:
        limit_unacknowledged(connection.socket, stream.send_timeout)
    gone.add_done_callback(lambda _: stream.end("client gone"))
    frames = aframes(stream)
    try:
        await _send(stream, head, send, connection)
        # Some servers keep the head back until there is a body.
        await _send(stream, _body(b""), send, connection)
        async for piece in frames:
            await _send(stream, _body(piece), send, connection)
            if stream.reason in _GONE:
                break
    finally:
        await frames.aclose()
    if stream.reason not in _GONE:
        await _send(stream, {"type": "http.response.body", "body": b""}, send, connection)


_GONE = ("client gone", "send timeout")


def _body(data: bytes) -> MutableMapping[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def _send(
    stream: GeneratorStream,
    message: MutableMapping[str, Any],
    send: Send,
    connection: Connection | None,
) -> None:
    if stream.reason in _GONE:
        return
    try:
        step = iter(send(message).__await__())
        waits_for = next(step, DONE)
        if waits_for is DONE or await _in_time(stream, rest(step, waits_for)):
            return
        if stream.reason != "client gone":
            stream.end("send timeout")
            if connection is not None and connection.drop is not None:
                connection.drop()
    except Exception as error:  # noqa: BLE001  # because servers have errors of their own
        logger.debug("stream could not be sent: %r", error)
        stream.end("client gone")


async def _in_time(stream: GeneratorStream, left: Coroutine[Any, Any, None]) -> bool:
    """Finish to send, unless the client takes nothing for SEND_TIMEOUT, or while it stops."""
    sending = asyncio.ensure_future(left)
    began = time.monotonic()
    try:
        while not sending.done():
            await asyncio.wait((sending,), timeout=FAREWELL)
            patience = FAREWELL if stream.stopping else stream.send_timeout
            if stream.reason == "client gone" or time.monotonic() - began >= patience:
                break
        if sending.done():
            sending.result()
        return sending.done()
    finally:
        sending.cancel()
