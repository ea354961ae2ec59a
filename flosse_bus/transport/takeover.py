"""One HTTP exchange under ASGI of which the hub takes over the response.

Django runs the view and the middleware as ever. When a stream is what comes out, nothing is sent
yet: Django ends its request first, with its signals, connections and thread, and only then the
head goes out and the stream begins.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from django.http.response import HttpResponseBase

from ..access import Refusal
from ..exceptions import BackendUnavailable
from ..refusals import UNREACHABLE, refuse
from . import shutdown
from .generated import GeneratorStream
from .outlet import Outlet
from .sending import send_generated
from .servers import Connection, Send, find_connection
from .stream import Stream, logger
from .turns import Turn

Message = MutableMapping[str, Any]
Headers = list[tuple[bytes, bytes]]
Receive = Callable[[], Awaitable[Message]]

#: Headers of a stream's response that a refusal in its place carries as well.
_KEPT = (b"set-cookie", b"vary", b"access-control-")
#: What of a request's scope tells about its connection.
_ABOUT = ("http_version", "server", "client")


class Exchange:
    """Stands between the server and Django: it is Django's ``send``."""

    __slots__ = (
        "_about",
        "_asked",
        "_begun",
        "_closed",
        "_context",
        "_gone",
        "_head",
        "_receive",
        "_send",
        "_stream",
        "turn",
    )

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        # That of whatever is around the application; what Django adds is over with its request.
        self._context = contextvars.copy_context()
        self._about = {key: scope[key] for key in _ABOUT if key in scope}
        self.turn = Turn(scope)
        #: Is the client's whole request here?
        self._asked = False
        self._gone: asyncio.Future[None] | None = None
        self._closed = False
        self._begun = False
        self._stream: Stream | GeneratorStream | None = None
        self._head: Message = {}

    def __call__(self, message: Message) -> Awaitable[None]:
        return self._send(message)

    async def receive(self) -> Message:
        """Pass the server's messages on.

        After the request only one can come: that the client has gone. Django stops waiting for it
        when its own part is over, but the server must not hear of that: gunicorn's worker takes
        it for an answer.
        """
        if self._asked:
            await asyncio.shield(self._until_gone())
            return {"type": "http.disconnect"}
        message = await self._receive()
        self._asked = message["type"] != "http.request" or not message.get("more_body", False)
        if message["type"] == "http.disconnect":
            self._gone = asyncio.get_running_loop().create_future()
            self._gone.set_result(None)
        elif self._asked:
            await self.turn.take()
        return message

    def _until_gone(self) -> asyncio.Future[None]:
        if self._gone is None:
            loop = asyncio.get_running_loop()
            self._gone = self._context.run(loop.create_task, self._wait_until_gone())
        return self._gone

    async def _wait_until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def take(self, stream: Stream | GeneratorStream, response: HttpResponseBase) -> None:
        """Send this stream, under the head of this response, when Django has finished."""
        if self._closed:  # Django goes on with a request after its task has been cancelled
            stream.close()
        self._stream = stream
        self._head = {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": headers_of(response),
        }

    def close(self) -> None:
        """Whatever became of it, nothing is left behind."""
        self._closed = True
        gone = self._gone
        if gone is not None and not gone.cancel() and not gone.cancelled():
            gone.exception()  # a server's own, of which there is nothing to say
        if self._stream is not None:
            self._stream.close()

    async def stream(self) -> None:
        """Send the stream that was taken, if any, until it or its client ends."""
        stream = self._stream
        if stream is None or self._begun:
            return
        self._begun = True
        # Django may swallow it while it waits for tasks of its own. Python 3.10 does not tell.
        if getattr(asyncio.current_task(), "cancelling", int)():
            raise asyncio.CancelledError
        gone = self._until_gone()
        if gone.done():
            return
        shutdown.install()
        shutdown.follow(self._send)
        connection = find_connection(self._send, self._about)
        if isinstance(stream, Stream):
            await self._subscribe(stream, gone, connection)
        else:
            head, self._head = self._head, {}
            await send_generated(stream, head, self._send, gone, connection)

    async def _subscribe(
        self, stream: Stream, gone: asyncio.Future[None], connection: Connection | None
    ) -> None:
        outlet = Outlet(stream, stream.bus.hubs.here(), self._send, self._context, connection)
        try:
            await outlet.open()
        except BackendUnavailable as error:
            stream.refused(error)
            await self._refuse(stream)
            return
        stream.begin(outlet)
        head, self._head = self._head, {}
        try:
            if not gone.done():
                await self._send(head)
                del head  # the stream may last for days
                outlet.begin()
                gone.add_done_callback(outlet.client_gone)
                await outlet.ended
        except asyncio.CancelledError:
            outlet.part()
            raise
        except OSError as error:  # as servers may raise when the client has gone
            logger.debug("stream could not be begun: %r", error)
        finally:
            outlet.close()

    async def _refuse(self, stream: Stream) -> None:
        refusal = Refusal(status=503, detail=UNREACHABLE, topics=stream.names)
        if stream.only_streams:
            await self._send(self._head)
            await self._send({"type": "http.response.body", "body": stream.refusal(refusal)})
            return
        response = refuse(refusal)
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
