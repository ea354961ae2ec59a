"""FastAPI's EventSourceResponse over an asyncio.Queue per client, as its documentation yields.

No history, no limit on what is pending: the same that ``bare.py`` is for stock Django.
"""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterable

from fastapi import FastAPI
from fastapi.sse import EventSourceResponse, ServerSentEvent

from benchmarks.peers.load import controlled_asgi

queues: dict[int, set[asyncio.Queue]] = defaultdict(set)
numbers = itertools.count(1)
app = FastAPI()


@app.get("/stream/{topic}/", response_class=EventSourceResponse)
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


application = controlled_asgi(app, apublish)
