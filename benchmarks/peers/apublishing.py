"""What ``apublish`` costs a coroutine, outside a transaction and inside one. Prints JSON.

Memory backend, no subscriber, uvloop, a database (SQLite) as ``default``. In turns of 100 calls, so
that what else the machine does hits all; medians of the turns, in us for each event. What is
published inside a transaction is timed with its commit, at which the events are sent.
"""

import asyncio
import json
import statistics
import sys
import time
from collections import defaultdict

import django

django.setup()

import uvloop
from asgiref.sync import async_to_sync
from django.db import connection, transaction

from benchmarks.peers.load import payload
from flosse_bus import bus

CALLS = 100
TEXT = payload(0, "x" * 87)
times: dict[str, list[float]] = defaultdict(list)


async def default() -> None:
    for _ in range(CALLS):
        await bus.apublish("load.0", TEXT)


async def none() -> None:
    for _ in range(CALLS):
        await bus.apublish("load.0", TEXT, using=None)


async def sync() -> None:
    for _ in range(CALLS):
        bus.publish("load.0", TEXT)


def inside_async() -> None:
    with transaction.atomic():
        async_to_sync(default)()


def inside_sync() -> None:
    with transaction.atomic():
        for _ in range(CALLS):
            bus.publish("load.0", TEXT)


def nothing() -> None:
    """The frame of ``inside_async`` alone: an empty transaction and an empty coroutine."""
    with transaction.atomic():
        async_to_sync(asyncio.sleep)(0)


def note(name: str, begin: int) -> None:
    times[name].append((time.perf_counter_ns() - begin) / 1e3 / CALLS)


async def outside(turns: int) -> None:
    for _ in range(turns):
        for call in (default, none, sync):
            begin = time.perf_counter_ns()
            await call()
            note(call.__name__, begin)


def inside(turns: int) -> None:
    for _ in range(turns):
        for call in (inside_async, inside_sync, nothing):
            begin = time.perf_counter_ns()
            call()
            note(call.__name__, begin)


def main(turns: int) -> None:
    connection.ensure_connection()
    for count in (20, turns):  # the first to warm up
        times.clear()
        uvloop.run(outside(count))
        inside(count)
    found = {f"{name}_us": statistics.median(values) for name, values in times.items()}
    found["ratio"] = found["default_us"] / found["none_us"]
    found["ratio_inside"] = found["inside_async_us"] / found["inside_sync_us"]
    print(json.dumps({**found, "bytes": len(TEXT)}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
