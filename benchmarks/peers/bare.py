"""Stock Django: StreamingHttpResponse over an asyncio.Queue per client, and nothing more.

No ids, no history, no limit on what is pending: the least that a project can write by hand.
"""

import asyncio
import itertools
from collections import defaultdict

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponseForbidden, StreamingHttpResponse
from django.urls import path

from benchmarks.peers.load import controlled_asgi

queues: dict[int, set[asyncio.Queue]] = defaultdict(set)
numbers = itertools.count(1)


async def frames(topic: int):
    queue: asyncio.Queue[str] = asyncio.Queue()
    queues[topic].add(queue)
    try:
        yield b": ok\n\n"
        while True:
            yield await queue.get()
    finally:
        queues[topic].discard(queue)


async def stream(request, topic: int):
    if settings.LOGIN and not (await request.auser()).is_authenticated:
        return HttpResponseForbidden()
    return StreamingHttpResponse(frames(topic), content_type="text/event-stream")


async def apublish(topic: int, text: str) -> None:
    frame = f"id: 0123456789ab-{next(numbers)}\ndata: {text}\n\n".encode()
    for queue in queues[topic]:
        queue.put_nowait(frame)


urlpatterns = [path("stream/<int:topic>/", stream)]
application = controlled_asgi(get_asgi_application(), apublish)
