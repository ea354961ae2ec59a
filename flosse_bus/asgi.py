"""``get_asgi_application()``: Django's own, with streams that cost no thread and no connection."""

from __future__ import annotations

from typing import Any, cast

import django
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.http.response import HttpResponseBase

from .bus import buses
from .responses import StreamResponse
from .transport import shutdown
from .transport.servers import Send
from .transport.takeover import Exchange, Receive


def get_asgi_application() -> BusASGIHandler:
    """Return an ASGI 3 application, in place of ``django.core.asgi.get_asgi_application``.

    It also answers the lifespan protocol, which Django does not.
    """
    django.setup(set_prefix=False)
    return BusASGIHandler()


class BusASGIHandler(ASGIHandler):
    """Django's handler; where a response is a stream, the hub sends it once Django has finished."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        exchange = Exchange(scope, receive, send)
        try:
            try:
                await super().__call__(scope, exchange.receive, cast(Any, exchange))
            finally:
                exchange.turn.leave()
            await exchange.stream()
        finally:
            exchange.close()

    async def send_response(self, response: HttpResponseBase, send: Any) -> None:
        """Keep a stream back until the request is over."""
        stream = response.hand_over() if isinstance(response, StreamResponse) else None
        if stream is None or not isinstance(send, Exchange):
            if isinstance(send, Exchange):
                send.turn.leave()
            await super().send_response(response, send)
            return
        send.take(stream, response)
        if isinstance(response, StreamResponse) and response.needs_request:
            send.turn.leave()
            await send.stream()
        if django.VERSION < (5, 0):  # later versions close it themselves
            await sync_to_async(response.close, thread_sensitive=True)()


async def _live(receive: Receive, send: Send) -> None:
    """Speak the lifespan protocol of the ASGI specification."""
    while True:
        kind = (await receive())["type"]
        if kind == "lifespan.startup":
            shutdown.install()
            buses.begin_again()  # a test or a notebook may run one server after another
            await send({"type": "lifespan.startup.complete"})
        elif kind == "lifespan.shutdown":
            shutdown.end_streams()
            for bus in buses.opened():
                await bus.hubs.here().aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return
