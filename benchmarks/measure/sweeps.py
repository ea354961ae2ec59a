"""How cost and latency change with streams, topics, payload, and the rate of publishing.

Each point has a server of its own, just started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .rows import brief, steady
from .servers import PEERS
from .tools import SIZE, Client, Missing

NAMES = ("takeover", "nchan")
STREAMS = (10, 100, 1000, 5000, 10000)
TOPICS = (1, 10, 100, 1000, 10000)
SIZES = (100, 1024, 4096, 16384, 65536)
RATES = (20, 100, 500, 1000, 2000, 5000, 10000)


def point(
    name: str, *, streams: int, rate: float, size: int = SIZE, topics: int = 1, quick: bool
) -> dict[str, Any]:
    with PEERS[name](streams=streams) as server, Client(server.port, streams, topics=topics) as on:
        seconds, warm = (2.0, 1.0) if quick else (5.0, 1.0)
        return steady(server, on, rate, seconds, size=size, topics=topics, warm=warm)


def by_streams(name: str, quick: bool) -> Iterator[dict[str, Any]]:
    """20,000 deliveries a second in all, to more and more streams."""
    for streams in STREAMS[: 3 if quick else None]:
        yield point(name, streams=streams, rate=20000 / streams, quick=quick)


def by_topics(name: str, quick: bool) -> Iterator[dict[str, Any]]:
    """10,000 deliveries a second in all to 1,000 streams, or as many as there are topics."""
    for topics in TOPICS[: 2 if quick else None]:
        streams = max(1000, topics)
        yield point(
            name, streams=streams, rate=10000 * topics / streams, topics=topics, quick=quick
        )


def by_size(name: str, quick: bool) -> Iterator[dict[str, Any]]:
    """100 streams, 20 events a second, larger and larger."""
    for size in SIZES[:: 4 if quick else 1]:
        yield point(name, streams=100, rate=20, size=size, quick=quick)


def by_rate(name: str, quick: bool) -> Iterator[dict[str, Any]]:
    """100 streams, more and more events a second, until they are not delivered any more."""
    for rate in RATES[:: 3 if quick else 1]:
        found = point(name, streams=100, rate=rate, quick=quick)
        yield found
        if found["deliveries_s"] < 0.9 * found["wanted_s"] or found["lost"]:
            return


KINDS: dict[str, Callable[[str, bool], Iterator[dict[str, Any]]]] = {
    "streams": by_streams,
    "topics": by_topics,
    "size": by_size,
    "rate": by_rate,
}


def measure(names: list[str] | None, *, quick: bool) -> dict[str, Any]:
    """Run every sweep for each of the servers."""
    results: dict[str, Any] = {}
    for kind, sweep in KINDS.items():
        for name in names or NAMES:
            points = results.setdefault(kind, {}).setdefault(name, [])
            try:
                for found in sweep(name, quick):
                    points.append(found)
                    where = f"{found['streams']} streams, {found['topics']} topics, "
                    where += f"{found['rate']:g}/s, {found['size']} B"
                    print(f"  {kind} {name}: {where}: {brief({'steady': found})}", flush=True)
            except Missing as error:
                print(f"  {kind} {name}: not measured: {error}", flush=True)
    return results
