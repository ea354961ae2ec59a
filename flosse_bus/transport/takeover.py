"""One HTTP exchange under ASGI of which the hub takes over the response.

Django runs the view and the middleware as ever. When a stream is what comes out, nothing is sent
yet: Django ends its request first, with its signals, connections and thread, and only then the
head goes out and the stream begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.http.response import HttpResponseBase

from ..access import Refusal
from ..exceptions import BackendUnavailable
from ..refusals import UNREACHABLE, refuse
from . import shutdown
from .outlet import Outlet, Send
from .stream import Stream, logger

Message = MutableMapping[str, Any]
Headers = list[tuple[bytes, bytes]]
Receive = Callable[[], Awaitable[Message]]

#: Headers of a stream's response that a refusal in its place carries as well.
_KEPT = (b"set-cookie", b"vary", b"access-control-")


class Exchange:
    """Stands between the server and Django: it is Django's ``send``."""

    __slots__ = ("_gone", "_head", "_receive", "_send", "_stream")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._stream: Stream | None = None
        self._head: Message = {}
        self._gone = False

    def __call__(self, message: Message) -> Awaitable[None]:
        return self._send(message)

    async def receive(self) -> Message:
        """Pass the server's messages on, and remember that the client has gone."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._gone = True
        return message

    def take(self, stream: Stream, response: HttpResponseBase) -> None:
        """Send this stream, under the head of this response, when Django has finished."""
        self._stream = stream
        self._head = {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": headers_of(response),
        }

    def close(self) -> None:
        """Whatever became of it, the stream's place is free. Again is harmless."""
        if self._stream is not None:
            self._stream.close()

    async def stream(self) -> None:
        """Send the stream that was taken, if any, until it or its client ends."""
        stream = self._stream
        if stream is None or self._gone:
            return
        shutdown.install()
        outlet = Outlet(stream, stream.bus.hubs.here(), self._send)
        try:
            await outlet.open()
        except BackendUnavailable:
            logger.warning("stream refused: bus %r is down", stream.bus.config.alias)
            await self._refuse(stream)
            return
        stream.begin(outlet)
        head, self._head = self._head, {}
        gone = asyncio.ensure_future(self._until_gone())
        try:
            await self._send(head)
            outlet.begin(stream.opening())
            gone.add_done_callback(outlet.client_gone)
            await outlet.ended
        finally:
            outlet.close()
            gone.cancel()

    async def _until_gone(self) -> None:
        while not self._gone:
            await self.receive()

    async def _refuse(self, stream: Stream) -> None:
        response = refuse(Refusal(status=503, detail=UNREACHABLE, topics=stream.names))
        kept = [field for field in self._head["headers"] if field[0].lower().startswith(_KEPT)]
        await self._send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": [*headers_of(response), *kept],
            }
        )
        await self._send({"type": "http.response.body", "body": response.content})


def headers_of(response: HttpResponseBase) -> Headers:
    """Return a response's headers and cookies as ASGI wants them."""
    headers = [
        (name.encode("ascii").lower(), value.encode("latin-1"))
        for name, value in response.headers.items()
    ]
    headers += [
        (b"set-cookie", cookie.OutputString().encode("ascii"))
        for cookie in response.cookies.values()
    ]
    return headers
