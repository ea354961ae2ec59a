"""Slow readers, a storm of reconnects, and big events: what must not disturb the others."""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .rows import drained, steady
from .servers import PEERS, Server
from .tools import Client, pause

if TYPE_CHECKING:
    from typing_extensions import Self


def slow(name: str, *, quick: bool) -> dict[str, Any]:
    """1,000 streams x 20/s with and without 10 more that have stopped reading.

    Those get 16 MB first, while they are alone, so that no buffer of the kernel can take more. The
    two runs alternate, and each has a fresh server.
    """
    streams, seconds = (200, 3.0) if quick else (1000, 8.0)
    runs: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
    result: dict[str, Any] = {"title": PEERS[name].title, "streams": streams}
    for turn in range(1 if quick else 2):
        with PEERS[name](streams=streams) as server, Client(server.port, streams) as client:
            runs["without"].append(
                {**steady(server, client, 20, seconds), "rss_kb": server.memory()["rss"]}
            )
        with (
            PEERS[name](streams=streams + 10) as server,
            Client(server.port, 10, stalled=10),
        ):
            begin, files = time.monotonic(), server.files()
            result["fill_kb"] = fill(server)
            with Client(server.port, streams) as client:
                found = steady(server, client, 20, seconds)
                found["rss_kb"] = server.memory()["rss"]
                runs["with"].append(found)
            if turn == 1:
                result["closed_after_s"] = until_closed(server, files - 10, begin)
    for kind, found in runs.items():
        result[kind] = {
            name: statistics.median(one[name] for one in found)
            for name in ("p50_ms", "p99_ms", "max_ms", "cpu_us", "rss_kb", "lost", "behind")
        }
    result["p99_ratio"] = result["with"]["p99_ms"] / result["without"]["p99_ms"]
    result["runs"] = runs
    return result


def fill(server: Server) -> int:
    """Publish 16 MB to whoever is there, and return the KB of RSS that this has added."""
    before = server.memory()["rss"]
    server.load(rate=100, size=65536, seconds=2.5)
    server.finished()
    return server.memory()["rss"] - before


def until_closed(server: Server, files: int, begin: float, longest: float = 75) -> float | None:
    """Wait for the server to close all streams that do not read; ``None`` if it does not.

    It is seen by its open files: what it has written before still keeps the client's side open.
    """
    while time.monotonic() - begin < longest:
        if server.files() <= files:
            return time.monotonic() - begin
        pause(0.25)
    return None


def storm(name: str, *, quick: bool) -> dict[str, Any]:
    """2,000 streams are cut at once, and come back at once when 100 events have been missed.

    20 others stay, on the same topic: their latency meanwhile is what the storm does to them.
    """
    streams = 400 if quick else 2000
    with (
        PEERS[name](streams=streams + 20) as server,
        Client(server.port, 20) as live,
        Client(server.port, streams, ids=True, ramp=streams) as client,
    ):
        server.load(rate=20, seconds=15 if quick else 25)
        pause(2)
        live.ask("reset")
        pause(3)
        calm = live.ask("report")
        client.ask("reset")
        client.ask("cut")
        pause(5)
        before = server.stats()
        live.ask("reset")
        used = server.cpu()
        back = client.ask(f"reconnect {before['number']}", timeout=60)
        pause(0.2)
        used = server.cpu() - used
        after = server.stats()
        meanwhile = live.ask("report")
        load = server.finished()
        final = drained(client, load["number"])
        return {
            "title": PEERS[name].title,
            "streams": streams,
            "missed": 100,
            "came_back": back["open"],
            "failed": back["failed"],
            "error": back["error"],
            "open_s": back["seconds"],
            "caught_up_s": back["caught_up_seconds"],
            "behind": max(back["behind"], load["number"] - final["least"]),
            "lost": final["lost"],
            "repeated": final["repeated"],
            "reads": after["reads"] - before["reads"] if "reads" in after else None,
            "cpu_s": used,
            "calm_p99_ms": calm["p99_ms"],
            "live_p99_ms": meanwhile["p99_ms"],
            "live_max_ms": meanwhile["max_ms"],
            "live_lost": meanwhile["lost"],
        }


class Peak:
    """Watches the memory of a server's processes."""

    def __init__(self, server: Server) -> None:
        self.pids, self.rss, self._stop = server.pids, 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            pages = 0
            for pid in self.pids:
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            self.rss = max(self.rss, pages * 4)


def big(name: str, *, quick: bool) -> dict[str, Any]:
    """1 MiB events to 100 streams, half of which read 256 KB a second; 10 small streams beside."""
    streams = 20 if quick else 100
    seconds = 4.0 if quick else 15.0
    with (
        PEERS[name](streams=streams + 10) as server,
        Client(server.port, 10, path="/stream/1/") as small,
        Client(
            server.port, streams, path="/stream/0/", throttled=streams // 2, throttle=256 * 1024
        ) as client,
    ):
        server.load(rate=20, seconds=2 * seconds + 6, first=1)
        pause(1)
        small.ask("reset")
        pause(seconds / 2)
        calm = small.ask("report")
        before = server.memory()["rss"]
        with Peak(server) as peak:
            server.load(rate=1, size=1 << 20, seconds=seconds)
            small.ask("reset")
            client.ask("reset")
            used = server.cpu()
            pause(seconds)
            used = server.cpu() - used
            meanwhile, report = small.ask("report"), client.ask("report")
            load = server.finished()
            final = drained(client, load["number"], 10)
        return {
            "title": PEERS[name].title,
            "streams": streams,
            "rss_before_kb": before,
            "rss_added_kb": peak.rss - before,
            "events": load["published"],
            "fast_p99_ms": report["p99_ms"],
            "fast_lost": final["lost"],
            "fast_behind": load["number"] - final["least"],
            "mb_s": report["bytes"] / report["seconds"] / 1e6,
            "slow_alive": final["slow_alive"],
            "server_share": used / seconds,
            "calm_p99_ms": calm["p99_ms"],
            "small_p99_ms": meanwhile["p99_ms"],
            "small_max_ms": meanwhile["max_ms"],
            "small_lost": meanwhile["lost"],
        }
