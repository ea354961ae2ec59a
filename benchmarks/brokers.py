"""What a broker costs: ``python benchmarks/brokers.py redis|postgres``, or ``make bench-brokers``.

Everything in one run on one machine, so that the ratios mean something where the figures do not:
publishing beside the same call through the driver alone, ``publish_many`` beside ``publish``,
latency from a publisher to a client of another process, rates, and bytes per event.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django

django.setup()

from benchmarks.peers import many
from flosse_bus.bus import Bus
from flosse_bus.conf import load
from tests.brokers import PostgresServer, RedisServer
from tests.processes import Project

DATA = {"action": "updated", "model": "shop.order", "pk": 12345, "fields": {"status": "paid"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("broker", choices=["redis", "postgres"])
    parser.add_argument("--count", type=int, default=2000, help="events per measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flosse-bench-") as directory:
        {"redis": redis_rows, "postgres": postgres_rows}[options.broker](
            Path(directory), options.count
        )


def row(name: str, value: str) -> None:
    print(f"{name:<58} {value}", flush=True)


# Redis


def redis_rows(directory: Path, count: int) -> None:
    import redis

    from flosse_bus.backends.redis import RedisBackend, connections

    with RedisServer(directory / "redis") as server:
        row("Redis", server.info("server")["redis_version"])
        row("redis-py", redis.__version__)

        def make() -> Bus:
            config = dataclasses.replace(load("default"), location=server.url)
            return Bus(config, RedisBackend(config))

        bus = make()
        bus.publish("orders", DATA, using=None)
        client = redis.Redis.from_url(server.url, protocol=2)
        with recorded(connections, "_send") as calls:
            bus.publish("orders", DATA, using=None)
        _, *command = next(call for call in calls if call[1] == "EVALSHA")

        def bare() -> None:
            client.execute_command(*command)

        compare(lambda: bus.publish("orders", DATA, using=None), bare, count)
        batches(bus)
        rates(make, count)
        server.execute("FLUSHALL")
        for n in range(1000):
            bus.publish("orders", {**DATA, "n": n}, using=None)
        used = server.execute("MEMORY", "USAGE", "{flosse}:s:orders", "SAMPLES", "0")
        size = len(json.dumps({**DATA, "n": 500}, separators=(",", ":")))
        row(f"bytes kept per event of {size} bytes", f"{used / 1000:.0f}")
        bus.close()
        client.close()
        settings = {
            "BACKEND": "flosse_bus.backends.redis.RedisBackend", "LOCATION": server.url,
        }  # fmt: skip
        latency(directory, make(), settings, {}, count)


# PostgreSQL


def postgres_rows(directory: Path, count: int) -> None:
    import psycopg

    from flosse_bus.backends.postgres import PostgresBackend
    from tests.postgres.database import alias, migrate

    server = PostgresServer(directory / "pg", settings={"fsync": "on"})
    with server, alias(server.uri, "bench"):
        migrate("bench")
        row("PostgreSQL", server.execute("SHOW server_version")[0][0])
        row("psycopg", psycopg.__version__)

        def make() -> Bus:
            config = load("default")
            return Bus(config, PostgresBackend(config, using="bench"))

        bus = make()
        bus.publish("orders", DATA, using=None)
        connection = psycopg.connect(
            server.uri, autocommit=True, prepare_threshold=None, cursor_factory=psycopg.RawCursor
        )
        with recorded(bus.backend, "_run") as calls:
            bus.publish("orders", DATA, using=None)
        [(query, given)] = calls
        text = query.text.decode()
        arguments = [
            value if binary or value is None else value.decode()
            for value, binary in zip(given, query.formats, strict=True)
        ]

        def bare() -> None:
            connection.execute(text, arguments).fetchone()

        compare(lambda: bus.publish("orders", DATA, using=None), bare, count)
        batches(bus)
        rates(make, count)
        for n in range(1000):
            bus.publish("sized", {**DATA, "n": n}, using=None)
        server.execute("VACUUM FULL flosse_bus_event")
        total = server.execute(
            "SELECT pg_total_relation_size('flosse_bus_event')::float8 / count(*) "
            "FROM flosse_bus_event"
        )[0][0]
        row("bytes kept per event, freshly vacuumed", f"{total:.0f}")
        bus.close()
        connection.close()
        settings = {"BACKEND": "flosse_bus.backends.postgres.PostgresBackend"}
        latency(directory, make(), settings, {"TESTPROJECT_POSTGRES": server.uri}, count)


# What both are asked


@contextlib.contextmanager
def recorded(owner, name: str):
    """Note what a function is called with: the same call is then made through the driver alone."""
    calls: list[tuple] = []
    function = getattr(owner, name)

    def call(*arguments):
        calls.append(arguments)
        return function(*arguments)

    setattr(owner, name, call)
    try:
        yield calls
    finally:
        setattr(owner, name, function)


def compare(ours, bare, count: int) -> None:
    """Time both in turns, so that what else the machine does hits both."""
    for call in (ours, bare):
        for _ in range(200):
            call()
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(count // 100):
        for name, call in (("ours", ours), ("bare", bare)):
            for _ in range(100):
                begin = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) * 1e6 for name, values in times.items()}
    row("bus.publish, us (median)", f"{medians['ours']:.0f}")
    row("the same call through the driver alone, us (median)", f"{medians['bare']:.0f}")
    row("ratio", f"{medians['ours'] / medians['bare']:.2f}")


def batches(bus: Bus) -> None:
    """Publish the same 10,000 events one by one and by ``publish_many``."""
    found = many.compare(bus, DATA)
    if not found:
        row("publish_many", "not measured: this version has none")
        return
    ratio = found["many_s"] / found["one_by_one_s"]
    row(
        f"{many.EVENTS:,} events by publish, s (median of {many.ROUNDS})",
        f"{found['one_by_one_s']:.2f}",
    )
    row(f"{many.EVENTS:,} events by publish_many, s", f"{found['many_s']:.3f}")
    row("ratio (goal: at most 0.1)", f"{ratio:.3f}")


def rates(make, count: int) -> None:
    """Publish as fast as it goes from processes; then deliver to one that listens."""
    for processes in (1, 4):
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=flood, args=(make, count)) for _ in range(processes)]
        begin = time.perf_counter()
        for child in children:
            child.start()
        for child in children:
            child.join()
        rate = processes * count / (time.perf_counter() - begin)
        row(f"publishes/s from {processes} process(es)", f"{rate:,.0f}")
    bus = make()
    with bus.subscribe("flood") as events:
        child = multiprocessing.get_context("fork").Process(target=flood, args=(make, 2 * count))
        begin = time.perf_counter()
        child.start()
        for _ in range(2 * count):
            next(events)
        rate = 2 * count / (time.perf_counter() - begin)
        child.join()
    row("events/s from one publisher to one reader", f"{rate:,.0f}")
    bus.close()


def flood(make, count: int) -> None:
    bus = make()
    for _ in range(count):
        bus.publish("flood", DATA, using=None)
    os._exit(0)


def latency(directory: Path, bus: Bus, settings: dict, env: dict, count: int) -> None:
    """From before ``publish`` here to the first byte at a client of another process."""
    with Project("uvicorn", directory, bus=settings, env=env) as project:
        arrived: list[float] = []
        gap = threading.Event()
        connection = http.client.HTTPConnection("127.0.0.1", project.port, timeout=30)
        connection.request("GET", "/events/?topic=orders")
        response = connection.getresponse()
        while response.fp.readline().strip():  # the retry block
            pass

        def read() -> None:
            with contextlib.suppress(OSError, ValueError):
                while line := response.fp.readline():
                    if line.startswith(b"data:"):
                        arrived.append(time.perf_counter())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        times = []
        for n in range(min(count, 500) + 20):
            seen = len(arrived)
            begin = time.perf_counter()
            bus.publish("orders", DATA, using=None)
            end = time.monotonic() + 10
            while len(arrived) == seen and time.monotonic() < end:
                gap.wait(0.0005)
            if n >= 20:
                times.append((arrived[seen] - begin) * 1e3)
            gap.wait(0.015)  # idle in between
        connection.sock.shutdown(2) if connection.sock else None
        bus.close()
        times.sort()
        row("publish to first byte in another process, p50 ms", f"{times[len(times) // 2]:.2f}")
        row(
            "publish to first byte in another process, p99 ms",
            f"{times[len(times) * 99 // 100]:.2f}",
        )


if __name__ == "__main__":
    main()
