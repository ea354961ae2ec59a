"""django-bolt's EventSourceResponse over an asyncio.Queue per client, as its documentation yields.

No history, no limit on what is pending: the same that ``bare.py`` is for stock Django. Its server
is its own, in Rust, with one worker thread, in whose event loop the events are published, too.
"""

import asyncio
import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterable
from urllib.parse import urlencode

from django_bolt import BoltAPI
from django_bolt.responses import EventSourceResponse, ServerSentEvent

from benchmarks.peers.load import Control

queues: dict[int, set[asyncio.Queue]] = defaultdict(set)
numbers = itertools.count(1)
# No log of requests: the other peers write none either.
api = BoltAPI(trailing_slash="keep", enable_logging=False)
urlpatterns: list[object] = []


@api.get("/stream/{topic}/", response_class=EventSourceResponse)
async def stream(topic: int) -> AsyncIterable[ServerSentEvent]:
    queue: asyncio.Queue[ServerSentEvent] = asyncio.Queue()
    queues[topic].add(queue)
    try:
        yield ServerSentEvent(comment="ok")
        while True:
            yield await queue.get()
    finally:
        queues[topic].discard(queue)


async def apublish(topic: int, text: str) -> None:
    # raw_data: the text is JSON already, which data would encode once more.
    event = ServerSentEvent(raw_data=text, id=f"0123456789ab-{next(numbers)}")
    for queue in queues[topic]:
        queue.put_nowait(event)


orders = Control(apublish)


@api.get("/bench/{order}")
async def control(request, order: str):
    return json.loads(await orders.answer(f"/bench/{order}", urlencode(request.query)))
