"""The goals, as ratios within one run, and whether they are met."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class Goal(NamedTuple):
    what: str
    wanted: str
    found: str
    met: bool | None


def goals(sections: dict[str, Any]) -> list[Goal]:
    """Compare what has been measured. What has not been is left out."""
    found: list[Goal] = []
    for check in (_rows, _peers, _growth, _idle, _publish, _apublish, _slow, _storm):
        found += check({name: section["result"] for name, section in sections.items()})
    return found


def _at_most(what: str, limit: float, value: float, unit: str = " x") -> Goal:
    return Goal(what, f"<= {limit:g}{unit}", f"{value:.2f}{unit}", value <= limit)


def _rows(results: dict[str, Any]) -> Iterator[Goal]:
    rows = results.get("rows", {})

    def value(name: str, part: str, key: str) -> float:
        return rows.get(name, {}).get(part, {}).get(key, 0)

    for name, limit in (("nchan", 1.0), ("eventstream", 0.3), ("channels", 0.06)):
        ours, theirs = value("takeover", "steady", "cpu_us"), value(name, "steady", "cpu_us")
        if ours and theirs:
            yield _at_most(f"CPU per delivery, to {name}", limit, ours / theirs)
    ours, theirs = value("takeover", "steady", "p99_ms"), value("nchan", "steady", "p99_ms")
    if ours and theirs:
        yield _at_most("p99 latency, to nchan", 1.5, ours / theirs)
    ours = value("takeover", "saturated", "deliveries_s")
    theirs = value("nchan", "saturated", "deliveries_s")
    if ours and theirs:
        ratio = ours / theirs
        yield Goal("deliveries/s saturated, to nchan", ">= 5 x", f"{ratio:.2f} x", ratio >= 5)


def _peers(results: dict[str, Any]) -> Iterator[Goal]:
    """Compare with the peers in Python, and Pushpin: only what is met here may be claimed."""
    rows = results.get("rows", {})
    for name in ("bare", "fastapi", "bolt", "eventstream", "eventstream-daphne", "pushpin"):
        theirs = rows.get(name, {})
        # The same interpreter, where the peer needs another one.
        ours = rows.get("takeover-bolt" if name == "bolt" else "takeover", {})
        if "steady" not in ours:
            ours = rows.get("takeover", {})
        if "steady" not in ours or "steady" not in theirs:
            continue
        if ours["steady"]["rate"] == theirs["steady"]["rate"]:
            for key, what in (("cpu_us", "CPU per delivery"), ("p99_ms", "p99 latency")):
                if name == "eventstream" and key == "cpu_us":
                    continue  # there is a stricter goal
                yield _at_most(f"{what}, to {name}", 1, ours["steady"][key] / theirs["steady"][key])
        ratio = ours["saturated"]["deliveries_s"] / theirs["saturated"]["deliveries_s"]
        yield Goal(f"deliveries/s saturated, to {name}", ">= 1 x", f"{ratio:.2f} x", ratio >= 1)


def _growth(results: dict[str, Any]) -> Iterator[Goal]:
    for name, points in results.get("sweeps", {}).get("streams", {}).items():
        costs = {point["streams"]: point["cpu_us"] for point in points}
        if 10 in costs and 5000 in costs:
            ratio = costs[5000] / costs[10]
            what = f"growth of CPU per delivery, 10 to 5,000 streams, {name}"
            yield Goal(what, "<= 1.5 x", f"{ratio:.2f} x", ratio <= 1.5 if "take" in name else None)


def _idle(results: dict[str, Any]) -> Iterator[Goal]:
    for point in results.get("idle", {}).get("takeover", {}).get("points", []):
        what = f"logged in and idle, {point['streams']:,} streams"
        yield _at_most(f"{what}, RSS each", 16, point["rss_kb"], " KB")
        for key, name in (("threads", "threads"), ("pg_connections", "database connections")):
            # What the process has once, divided by its streams, is not a thing of each.
            total = round(point[key] * point["streams"])
            yield Goal(f"{what}, {name}", "0 each", f"{total} in all", total <= 20)


def _publish(results: dict[str, Any]) -> Iterator[Goal]:
    if "publish" in results:
        what = "publish without a subscriber, to one json.dumps"
        yield _at_most(what, 5, results["publish"]["ratio"])


def _apublish(results: dict[str, Any]) -> Iterator[Goal]:
    if (found := results.get("publish", {})) and "many_s" in found:
        what = "publish_many, 10,000 events, to publish, memory"
        yield _at_most(what, 1, found["many_s"] / found["one_by_one_s"])
    if found := results.get("apublish", {}):
        yield _at_most("apublish outside a transaction, to using=None", 1.2, found["ratio"])
        full = found["saturated"]
        if {"takeover", "takeover-using"} <= full.keys():
            by_default = full["takeover-using"]["deliveries_s"]
            ratio = by_default / full["takeover"]["deliveries_s"]
            what = "deliveries/s saturated by apublish, to using=None"
            yield Goal(what, ">= 0.8 x", f"{ratio:.2f} x", ratio >= 0.8)


def _slow(results: dict[str, Any]) -> Iterator[Goal]:
    if "p99_ratio" in (found := results.get("slow", {}).get("takeover", {})):
        yield _at_most("p99 beside 10 streams that do not read", 1.5, found["p99_ratio"])


def _storm(results: dict[str, Any]) -> Iterator[Goal]:
    if "caught_up_s" in (found := results.get("storm", {}).get("takeover", {})):
        wrong = found["lost"] + found["repeated"] + found["behind"] + found["failed"]
        whole = found["came_back"] == found["streams"] and not wrong
        text = f"{found['came_back']:,} in {found['caught_up_s']:.2f} s, {wrong} wrong"
        yield Goal("storm: all caught up, in order", "all", text, whole)
        yield _at_most("storm: p99 of live streams", 1.0, found["live_p99_ms"] / 1e3, " s")
        if found["reads"] is not None:
            yield Goal("storm: reads of the log", "<= 1", str(found["reads"]), found["reads"] <= 1)
