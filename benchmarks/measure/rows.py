"""One row per server: CPU per delivery, latency, deliveries/s saturated, what an idle stream costs.

Saturation: the server publishes to 100 streams as fast as the slowest of them takes it, with at
most so many events under way as the window says (see peers/load.py). Each server is measured with
several windows: a large one lets a server join what it writes, a small one is needed where it
drops what is pending. The best figure of a window without any loss counts. The floor writes each
event to each stream by itself, always: what joins writes can be faster than it.
"""

from __future__ import annotations

import statistics
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from .servers import PEERS, Server
from .tools import CORES, PROGRESS, SIZE, Client, Missing, busy, pause

FAULTS = ("lost", "announced", "behind", "repeated", "closed", "ended")
PARTS = ("steady", "saturated")


def steady(
    server: Server,
    client: Client,
    rate: float,
    seconds: float,
    *,
    size: int = SIZE,
    topics: int = 1,
    warm: float = 2.0,
) -> dict[str, Any]:
    """Measure at a rate: CPU, latency and losses."""
    server.load(rate=rate, size=size, seconds=warm + seconds + 0.3, topics=topics)
    pause(warm)
    used, broker, core = server.cpu(), server.broker_cpu(), busy(CORES[0])
    client.ask("reset")
    pause(seconds)
    used, broker = server.cpu() - used, server.broker_cpu() - broker
    core = busy(CORES[0]) - core
    report = client.ask("report")
    load = server.finished()
    final = drained(client, load["number"] - (topics > 1))
    deliveries = max(1, report["deliveries"])
    return {
        "streams": client.connections,
        "rate": rate,
        "size": size,
        "topics": topics,
        "deliveries_s": report["deliveries"] / report["seconds"],
        "wanted_s": rate * client.connections / topics,
        "cpu_us": used / deliveries * 1e6,
        "broker_cpu_us": broker / deliveries * 1e6,
        "server_share": used / report["seconds"],
        "client_share": report["cpu_share"],
        "others_share": max(0.0, core - used) / report["seconds"],
        "bytes": report["bytes"] / deliveries,
        "late_mean_ms": load["late_mean_ms"],
        "late_max_ms": load["late_max_ms"],
        **{name: report[name] for name in ("p50_ms", "p90_ms", "p99_ms", "max_ms")},
        **losses(final, load, topics),
    }


def losses(report: dict[str, Any], load: dict[str, Any], topics: int = 1) -> dict[str, Any]:
    """Return what has gone wrong until the end, all of which should be 0."""
    last = load["number"] - (topics > 1)  # the topics have their turns: some are one event short
    return {
        "lost": report["lost"],
        "behind": max(0, last - report["least"]),
        **{name: report[name] for name in ("announced", "repeated", "closed", "ended")},
    }


def drained(client: Client, number: int, timeout: float = 20) -> dict[str, Any]:
    """Wait until every stream has got the last event, and return the client's report."""
    report = client.ask("report")
    for _ in range(int(timeout / 0.1)):
        if report["least"] >= number:
            break
        pause(0.1)
        report = client.ask("report")
    return report


def saturated(
    server: Server, seconds: float, windows: Iterable[int] | None = None
) -> dict[str, Any]:
    """Measure deliveries/s to 100 streams, as fast as it goes without loss."""
    tries = []
    for window in windows or server.windows:
        with Client(server.port, 100, progress=PROGRESS, sample=4) as client:
            server.load(window=window, size=SIZE, seconds=seconds + 1.2)
            pause(1)
            used, core = server.cpu(), busy(CORES[0])
            client.ask("reset")
            pause(seconds)
            used, core = server.cpu() - used, busy(CORES[0]) - core
            report = client.ask("report")
            load = server.finished()
            final = drained(client, load["number"], 5)
            tries.append({
                "window": window,
                "deliveries_s": report["deliveries"] / report["seconds"],
                "cpu_us": used / max(1, report["deliveries"]) * 1e6,
                "server_share": used / report["seconds"],
                "client_share": report["cpu_share"],
                "others_share": max(0.0, core - used) / report["seconds"],
                "p99_ms": report["p99_ms"],
                **losses(final, load),
            })  # fmt: skip
    whole = [one for one in tries if not (one["lost"] or one["behind"] or one["closed"])]
    best = max(whole or tries, key=lambda one: one["deliveries_s"])
    return {**best, "lossless": bool(whole), "tries": tries}


def idle(server: Server, streams: int, **options: Any) -> tuple[Client, dict[str, Any]]:
    """Open streams, and return them with what each costs while nothing happens.

    Some are opened and closed before, so that what a server loads or allots once does not count.
    """
    with Client(server.port, 50, **options):
        pause(0.5)
    pause(1)
    before = server.memory()
    client = Client(server.port, streams, timeout=300, **options)
    pause(1)
    after = server.memory()
    return client, {
        "streams": streams,
        "rss_kb": (after["rss"] - before["rss"]) / streams,
        "pss_kb": (after["pss"] - before["pss"]) / streams,
        "threads": (after["threads"] - before["threads"]) / streams,
        "open_s": client.opened["seconds"],
    }


def row(name: str, *, quick: bool) -> dict[str, Any]:
    """Measure one server, at half the rate or a quarter if it cannot do the usual one."""
    kind = PEERS[name]
    streams = kind.streams // (5 if quick else 1)
    result: dict[str, Any] = {"title": kind.title, "failed_at": []}
    for part in (1, 2, 4):
        with kind(streams=streams) as server:
            client, result["idle"] = idle(server, streams, progress=PROGRESS)
            with client:
                found = result["steady"] = usual(server, client, quick, kind.rate / part)
            if sustained(found):
                pause(0.5)
                result["saturated"] = saturated(server, 1.5 if quick else 3)
                break
            result["failed_at"].append(found)
            print(f"  {name}: not sustained: {brief({'steady': found})}", flush=True)
    else:
        with kind(streams=streams) as server:
            result["saturated"] = saturated(server, 1.5 if quick else 3)
    return result


def sustained(found: dict[str, Any]) -> bool:
    whole = not (found["lost"] or found["behind"] or found["closed"])
    return whole and found["deliveries_s"] > 0.9 * found["wanted_s"]


def usual(server: Server, client: Client, quick: bool, rate: float) -> dict[str, Any]:
    return steady(server, client, rate, 3 if quick else 10, warm=1 if quick else 2)


def duel(names: Iterable[str], results: dict[str, Any], *, quick: bool, rounds: int = 3) -> None:
    """Measure some servers again, in turns, and keep the medians.

    They are compared with each other to a few per cent, and a machine that others use too is not
    as steady as that from one minute to the next.
    """
    rows = {name: results[name] for name in names if "steady" in results.get(name, {})}
    runs = {name: {part: [row[part]] for part in PARTS} for name, row in rows.items()}
    for turn in range(1 if quick else rounds):
        for name in list(rows)[:: -1 if turn % 2 else 1]:
            kind = PEERS[name]
            streams = kind.streams // (5 if quick else 1)
            with kind(streams=streams) as server:
                with Client(server.port, streams) as client:
                    runs[name]["steady"].append(usual(server, client, quick, kind.rate))
                best = [rows[name]["saturated"]["window"]]
                runs[name]["saturated"].append(saturated(server, 1.5 if quick else 3, best))
    for name, parts in runs.items():
        for part, found in parts.items():
            rows[name][part] = {**found[0], **medians(found), "runs": found}
        print(f"  {name}, medians: {brief(rows[name])}", flush=True)


def medians(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each figure, and the worst of what should be 0."""
    middle = {}
    for key, value in found[0].items():
        if isinstance(value, (int, float)):
            values = [one[key] for one in found]
            middle[key] = max(values) if key in FAULTS else type(value)(statistics.median(values))
    return middle


def measure(
    names: Iterable[str], what: Callable[..., dict[str, Any]], **options: Any
) -> dict[str, Any]:
    """Measure several servers. What is missing, or fails, says so in its row."""
    results = {}
    for name in names:
        begin = time.monotonic()
        try:
            results[name] = what(name, **options)
        except Missing as error:
            results[name] = {"title": PEERS[name].title, "missing": str(error)}
        except Exception as error:  # noqa: BLE001  # because the other rows still count
            traceback.print_exc()
            results[name] = {"title": PEERS[name].title, "missing": f"failed: {error}"}
        if line := brief(results[name]):
            print(f"  {name} ({time.monotonic() - begin:.0f} s): {line}", flush=True)
    return results


def brief(result: dict[str, Any]) -> str:
    """Return one line about a row, for whoever waits."""
    if "missing" in result:
        return f"not measured: {result['missing']}"
    parts = []
    if one := result.get("steady"):
        faults = {name: one[name] for name in FAULTS if one.get(name)}
        parts.append(
            f"{one['cpu_us']:.1f} us, p50 {one['p50_ms']:.1f} p99 {one['p99_ms']:.1f} max "
            f"{one['max_ms']:.1f} ms, {one['deliveries_s']:,.0f}/s of {one['wanted_s']:,.0f}, "
            f"late {one['late_max_ms']:.0f} ms, server {one['server_share']:.0%}, "
            f"client {one['client_share']:.0%}, others {one['others_share']:.0%}, "
            f"{one['bytes']:.0f} B {faults or ''}"
        )
    if one := result.get("idle"):
        parts.append(f"idle {one['rss_kb']:.1f} KB, {one['threads']:.2f} threads")
    if one := result.get("saturated"):
        tries = ", ".join(
            f"{t['window']}: {t['deliveries_s']:,.0f}{' LOST' * bool(t['lost'])}"
            f" at {t['server_share']:.0%}, others {t['others_share']:.0%}"
            for t in one["tries"]
        )
        parts.append(f"saturated {one['deliveries_s']:,.0f}/s ({tries})")
        parts.append(f"client then {one['client_share']:.0%}")
    if not parts:
        parts = [
            f"{key} {value:,.2f}" if isinstance(value, float) else f"{key} {value}"
            for key, value in result.items()
            if not isinstance(value, (dict, list)) and key != "title"
        ]
    return "; ".join(parts)
