"""Publishes from inside a server, and answers ``/bench/load`` and ``/bench/stats``.

So that the cost of a publisher's HTTP does not enter, events are published by a task in the
server's own event loop (a thread under WSGI), with what the peer offers for that. Two ways:

- ``rate``: so many events a second in all, the topics in turn, with absolute deadlines. How late
  they were published is reported: a server that is busy delays its own publisher.
- ``window``: as fast as it goes without loss. The client says in a shared file how far its slowest
  stream has got; at most ``window`` events are under way, and they are published in batches of half
  of that at least. Every peer is measured with several windows, and its best one counts.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

#: Bytes that ``payload`` adds to the marker and the filler.
FRAME = len('{"mark":"@T0123456789abcdef@@N01234567@","fill":""}')
#: Backend calls and the like, for ``/bench/stats``. A peer may add to it.
extra: dict[str, Callable[[], object]] = {}


def payload(number: int, filler: str) -> str:
    mark = f"@T{time.monotonic_ns():016x}@@N{number:08x}@"
    return f'{{"mark":"{mark}","fill":"{filler}"}}'


class Load:
    """One run of publishing, or none yet."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.running = False
        self.first = 0
        self.published = 0
        self.seconds = 0.0
        self.late_sum = self.late_most = 0.0
        self._progress: mmap.mmap | None = None

    def steps(
        self, *, rate: float, size: int, seconds: float, topics: int, window: int, first: int
    ) -> Iterator[float | tuple[int, str]]:
        """Yield seconds to pause, or ``(topic, payload)`` to publish."""
        filler = "x" * max(0, size - FRAME)
        numbers = self.numbers
        self.first = first
        self.running, self.published, self.late_sum, self.late_most = True, 0, 0.0, 0.0
        base = numbers.get(first, 0)
        begun = time.monotonic()
        end = begun + seconds
        while True:
            now = time.monotonic()
            self.seconds = now - begun
            if now >= end:
                self.running = False
                return
            if window:
                room = window - (numbers.get(first, 0) - max(base, self.progress()))
                due = room if room >= (window + 1) // 2 else 0
                pause = 0.0 if due else 0.001
            else:
                due = int((now - begun) * rate) + 1 - self.published
                pause = max(0.001, begun + (self.published + due) / rate - now)
            for _ in range(due):
                topic = first + self.published % topics
                if not window:
                    late = max(0.0, time.monotonic() - begun - self.published / rate)
                    self.late_sum += late
                    self.late_most = max(self.late_most, late)
                number = numbers.get(topic, 0)
                numbers[topic] = number + 1
                self.published += 1
                yield topic, payload(number, filler)
            yield pause

    def progress(self) -> int:
        """Return how many events the client's slowest stream has got."""
        if self._progress is None:
            with Path(os.environ["BENCH_PROGRESS"]).open("rb") as file:
                self._progress = mmap.mmap(file.fileno(), 64, access=mmap.ACCESS_READ)
        return struct.unpack_from("Q", self._progress)[0]

    async def arun(self, publish: Callable[[int, str], Awaitable[object]], **what: Any) -> None:
        for step in self.steps(**what):
            if isinstance(step, tuple):
                await publish(*step)
            else:
                await asyncio.sleep(step)

    def run(self, publish: Callable[[int, str], object], **what: Any) -> None:
        for step in self.steps(**what):
            if isinstance(step, tuple):
                publish(*step)
            else:
                time.sleep(step)

    def stats(self) -> bytes:
        threads = threading.active_count()
        body = {
            "running": self.running,
            "published": self.published,
            "number": self.numbers.get(self.first, 0),
            "seconds": self.seconds,
            "late_mean_ms": 1e3 * self.late_sum / max(1, self.published),
            "late_max_ms": 1e3 * self.late_most,
            "threads": threads,
            **{name: value() for name, value in extra.items()},
        }
        return json.dumps(body).encode()


def arguments(query: str) -> dict[str, float]:
    """Return what a request for ``/bench/load`` asks for."""
    given = dict(parse_qsl(query))
    return {
        "rate": float(given.get("rate", 0)),
        "size": int(given.get("size", 135)),
        "seconds": float(given.get("seconds", 1)),
        "topics": int(given.get("topics", 1)),
        "window": int(given.get("window", 0)),
        "first": int(given.get("first", 0)),
    }


class Control:
    """Answers control requests in an event loop, where a task publishes."""

    def __init__(self, publish: Callable[[int, str], Awaitable[object]]) -> None:
        self.publish = publish
        self.loads: dict[int, Load] = {}
        self.tasks: set[asyncio.Task] = set()

    async def answer(self, path: str, query: str) -> bytes:
        what = arguments(query)
        # Loads on different topics may run at the same time: each has its own numbers.
        load = self.loads.setdefault(int(what["first"]), Load())
        if path == "/bench/load":
            task = asyncio.get_running_loop().create_task(load.arun(self.publish, **what))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            await asyncio.sleep(0)
        return load.stats()


def controlled_asgi(application, publish: Callable[[int, str], Awaitable[object]]):
    """Put the control requests in front of an ASGI application, which sees nothing of it."""
    orders = Control(publish)

    async def control(scope, receive, send) -> None:
        body = await orders.answer(scope["path"], scope["query_string"].decode())
        headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def controlled(scope, receive, send):  # no coroutine of its own, which each stream would hold
        if scope["type"] == "http" and scope["path"].startswith("/bench/"):
            return control(scope, receive, send)
        return application(scope, receive, send)

    controlled._asgi_single_callable = True  # what asgiref, and so daphne, looks for
    return controlled


def controlled_wsgi(application, publish: Callable[[int, str], object]):
    """The same for WSGI, where a thread publishes."""
    loads: dict[int, Load] = {}

    def controlled(environ, start_response):
        if not environ["PATH_INFO"].startswith("/bench/"):
            return application(environ, start_response)
        what = arguments(environ.get("QUERY_STRING", ""))
        load = loads.setdefault(int(what["first"]), Load())
        if environ["PATH_INFO"] == "/bench/load":
            load.running = True
            threading.Thread(target=load.run, args=(publish,), kwargs=what, daemon=True).start()
        body = load.stats()
        headers = [("Content-Length", str(len(body))), ("Connection", "close")]
        start_response("200 OK", headers)
        return [body]

    return controlled
