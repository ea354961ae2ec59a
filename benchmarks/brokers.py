"""What a broker costs: ``python benchmarks/brokers.py redis|postgres``, or ``make bench-brokers``.

Everything in one run on one machine, so that the ratios mean something where the figures do not:
publishing beside the same call through the driver alone, latency from a publisher to a client of
another process, rates, and bytes per event.
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

    from flosse_bus.backends.redis import RedisBackend
    from flosse_bus.backends.redis.scripts import PUBLISH

    with RedisServer(directory / "redis") as server:
        row("Redis", server.info("server")["redis_version"])
        row("redis-py", redis.__version__)

        def make() -> Bus:
            config = dataclasses.replace(load("default"), location=server.url)
            return Bus(config, RedisBackend(config))

        bus = make()
        bus.publish("orders", DATA, using=None)
        client = redis.Redis.from_url(server.url, protocol=2)
        run = client.info("server")["run_id"]
        body = json.dumps(DATA)

        def bare() -> None:
            client.evalsha(
                PUBLISH.sha, 2, "{flosse}:log", "{flosse}:heads", run, "0123456789ab", "orders",
                "{flosse}:s:", "{flosse}:c:orders", 1000, 3600000, "j-", "", body,
            )  # fmt: skip

        compare(lambda: bus.publish("orders", DATA, using=None), bare, count)
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
        connection = psycopg.connect(server.uri, autocommit=True, prepare_threshold=None)
        body = json.dumps(DATA).encode()
        text = "SELECT * FROM flosse_bus_append(%s, %s, %s, %b, %s, %s, %s, %s)"

        def bare() -> None:
            arguments = ("flosse", "orders", None, body, False, 1000, 3600.0, True)
            connection.execute(text, arguments).fetchone()

        compare(lambda: bus.publish("orders", DATA, using=None), bare, count)
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
