"""What an idle stream of a logged-in user costs, with sessions in PostgreSQL; and publishing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.brokers_postgres import PostgresServer, postgres_bins

from .rows import idle
from .servers import PEERS
from .tools import CACHE, CORES, PYTHON, ROOT, Missing, memory, pause, pinned, tree

#: Streams that the servers are measured with. Those with a connection for each get few.
STREAMS = {"takeover": (5000, 10000), "stock": (200,), "gthread": (200,), "bare": (200,),
           "eventstream": (200,)}  # fmt: skip


@contextmanager
def database(sessions: int) -> Iterator[tuple[PostgresServer, Path]]:
    """Run PostgreSQL, on the client's core, and give it with a file of requests with cookies."""
    try:
        import psycopg  # noqa: F401  # because only this section needs it
    except ImportError as error:
        raise Missing("psycopg in the harness's own Python (make test installs it)") from error
    if not postgres_bins():
        raise Missing("PostgreSQL (Debian: apt install postgresql)")
    settings = {"max_connections": 600, "shared_buffers": "64MB"}
    directory = CACHE / "run" / "postgres"
    shutil.rmtree(directory, ignore_errors=True)
    with pinned(CORES[-1]):
        server = PostgresServer(directory, settings=settings)
        server.start()
    try:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DJANGO_SETTINGS_MODULE": "benchmarks.peers.settings",
            "BENCH_POSTGRES": server.uri,
        }
        command = [PYTHON, "-m", "benchmarks.peers.sessions", str(sessions)]
        made = subprocess.run(
            command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip
        requests = CACHE / "run" / "requests.txt"
        lines = [f"/stream/0/\t{cookie}" for cookie in made.stdout.splitlines()]
        requests.write_text("\n".join(lines) + "\n")
        yield server, requests
    finally:
        server.stop()


def connections(postgres: PostgresServer) -> int:
    """Return how many clients PostgreSQL has, beside the one that asks."""
    rows = postgres.execute(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    return rows[0][0]


def logged_in(name: str, *, quick: bool) -> dict[str, Any]:
    """Measure one server. What it holds after a burst of requests has settled is what counts."""
    result: dict[str, Any] = {"title": PEERS[name].title, "points": []}
    PEERS[name]().missing()
    wanted = STREAMS.get(name, (200,))
    if quick:
        wanted = tuple(max(20, number // 50) for number in wanted)
    for streams in wanted:
        with (
            database(streams) as (postgres, requests),
            PEERS[name](streams=streams + 60, postgres=postgres.uri) as server,
        ):
            client, found = idle(server, streams, paths=requests, ramp=50)
            with client:
                pause(1)
                found["pg_connections"] = connections(postgres) / streams
                now = memory(tree(server.processes[-1].pid))
                found["rss_total_mb"] = now["rss"] / 1024
                found["threads_total"] = now["threads"]
                result["points"].append(found)
        print(
            f"  {name}: {streams} streams: {found['rss_kb']:.1f} KB, {found['threads']:.3f} "
            f"threads, {found['pg_connections']:.3f} connections each, "
            f"opened in {found['open_s']:.1f} s",
            flush=True,
        )
    return result


def ask_peer(module: str, *arguments: str, **more: str) -> dict[str, Any]:
    """Run a module of ``benchmarks.peers`` on the server's core; it answers with JSON."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "benchmarks.peers.settings",
        **more,
    }
    command = [PYTHON, "-m", f"benchmarks.peers.{module}", *arguments]
    with pinned(CORES[0]):
        answer = subprocess.run(
            command, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=300
        )
    return json.loads(answer.stdout)


def publishing(*, quick: bool) -> dict[str, Any]:
    """Publish with no subscriber on the memory backend, against one json.dumps; and many."""
    result = ask_peer("publishing", "30" if quick else "300")
    print(
        f"  publish {result['publish_us']:.1f} us, json.dumps {result['dumps_us']:.1f} us: "
        f"{result['ratio']:.2f} x ({result['ratio_now']:.2f} x with using=None)",
        flush=True,
    )
    print(f"  publish_many: {many(result)}", flush=True)
    return result


def many(result: dict[str, Any]) -> str:
    """Say what ``publish_many`` takes beside ``publish``."""
    if "many_s" not in result:
        return "not measured: this version has none"
    return (
        f"{result['events']:,} events in {1e3 * result['many_s']:.0f} ms, one by one in "
        f"{1e3 * result['one_by_one_s']:.0f} ms: {result['many_s'] / result['one_by_one_s']:.3f} x"
    )
