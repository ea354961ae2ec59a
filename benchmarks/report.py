"""Turn .bench/results.json into Markdown on stdout: ``python benchmarks/report.py``.

``--quick`` takes the results of a quick run instead, for development.

``--plot`` draws .bench/benchmarks.png, in the venv of the benchmarks: matplotlib is there.
``--write`` puts the tables between the markers in docs/benchmarks.md, and the plot beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from benchmarks.measure.goals import goals
from benchmarks.measure.idle import many
from benchmarks.measure.servers import PEERS

PAGE = ROOT / "docs" / "benchmarks.md"
PLOT = ROOT / "docs" / "images" / "benchmarks.png"
BEGIN, END = "<!-- streams:begin -->", "<!-- streams:end -->"
SHORT = {"takeover": "flosse_bus", "nchan": "nchan"}


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def small(value: float) -> str:
    """Return a count that is a whole one for each stream, or none."""
    return f"{value:.0f}" if abs(value - round(value)) < 0.06 else f"{value:.2f}"


def faults(one: dict[str, Any]) -> str:
    """Return what has gone wrong, for a footnote in the cell: nothing, if all is well."""
    names = {
        "lost": "lost", "announced": "of them announced", "behind": "missing at the end",
        "repeated": "repeated", "closed": "closed",
    }  # fmt: skip
    return ", ".join(f"{one[key]:,} {name}" for key, name in names.items() if one.get(key))


def markdown(results: dict[str, Any]) -> Iterator[str]:
    sections = results["sections"]
    found = {name: section["result"] for name, section in sections.items()}
    yield from setting(results)
    if "rows" in found:
        yield from rows(found["rows"], found.get("idle", {}))
    yield "### The goals\n"
    met = {True: "met", False: "**missed**", None: ""}
    lines = [[goal.what, goal.wanted, goal.found, met[goal.met]] for goal in goals(sections)]
    yield from table(["", "goal", "measured", ""], lines)
    for kind, title, unit, what in KINDS:
        if kind in found.get("sweeps", {}):
            yield from sweep(found["sweeps"][kind], title, unit, what)
    yield from scenarios(found)


def setting(results: dict[str, Any]) -> Iterator[str]:
    machine, versions = results["machine"], dict(results["versions"])
    dates = sorted({section["date"][:10] for section in results["sections"].values()})
    python = versions.pop("Python")
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    yield (
        f"Measured on {' and '.join(dates)}, on {machine['cores']} cores of an "
        f"{machine['cpu']}, {machine['kernel']}, Python {python}: {listed}.\n"
    )


def rows(found: dict[str, Any], logged_in: dict[str, Any]) -> Iterator[str]:
    head = ["", "CPU us per delivery", "p50 / p99 / max ms", "deliveries/s saturated",
            "idle KB", "threads", "PostgreSQL connections"]  # fmt: skip
    lines, notes = [], []
    for name in sorted(found, key=list(PEERS).index):
        row = found[name]
        if "missing" in row:
            lines.append([row["title"], f"not measured: {row['missing']}", *[""] * 5])
            continue
        steady, idle, full = row["steady"], row["idle"], row["saturated"]
        title = row["title"]
        if steady["streams"] * steady["rate"] != 20000:
            title += f" ({steady['streams']} x {steady['rate']:g}/s)"
        for tried in row["failed_at"]:
            wrong = faults(tried) or f"{tried['deliveries_s']:,.0f} deliveries/s"
            load = f"{tried['streams']:,} x {tried['rate']:g}/s"
            notes.append(f"{row['title']} did not sustain {load}: {wrong}.")
        if not full["lossless"]:
            notes.append(f"{row['title']}, saturated: {faults(full)}, with every window.")
        cost = f"{steady['cpu_us']:.1f}"
        if steady["broker_cpu_us"]:
            cost += f" + {steady['broker_cpu_us']:.0f} of Redis"
        points = logged_in.get(name, {}).get("points")
        latency = " / ".join(number(steady[key]) for key in ("p50_ms", "p99_ms", "max_ms"))
        lines.append([
            title, cost, latency, number(full["deliveries_s"]), f"{idle['rss_kb']:.0f}",
            small(idle["threads"]), small(points[0]["pg_connections"]) if points else "",
        ])  # fmt: skip
    yield from table(head, lines)
    yield from [f"{note}\n" for note in notes]
    busiest = max((r["steady"]["client_share"] for r in found.values() if "steady" in r), default=0)
    full = max((r["saturated"]["client_share"] for r in found.values() if "steady" in r), default=0)
    others = sorted(r["steady"]["others_share"] for r in found.values() if "steady" in r)
    if others and others[-1] > 0.1:
        yield (
            "**The machine was not idle**: other processes took up to "
            f"{others[-1]:.0%} of the server's core while it was measured.\n"
        )
    yield (
        f"The client itself used at most {busiest:.0%} of its core at the rate and {full:.0%} when "
        "saturated. Payloads are the same for all; what a server puts around them is its own.\n"
    )
    lines = [
        [row["title"], f"{point['streams']:,}", f"{point['rss_kb']:.1f}",
         small(point["threads"]), small(point["pg_connections"]), f"{point['open_s']:.1f}"]
        for row in logged_in.values() for point in row.get("points", [])
    ]  # fmt: skip
    if lines:
        head = ["logged in and idle, sessions in PostgreSQL", "streams", "KB each", "threads each"]
        yield from table([*head, "connections each", "s to open all"], lines)


KINDS = (
    ("streams", "streams", "streams", "20,000 deliveries/s in all."),
    ("topics", "topics", "topics",
     "10,000 deliveries/s in all to 1,000 streams, or as many as there are topics."),
    ("size", "bytes of payload", "size", "100 streams, 20 events/s."),
    ("rate", "events/s", "rate", "100 streams, until what is published is not delivered."),
)  # fmt: skip


def sweep(found: dict[str, Any], title: str, unit: str, what: str) -> Iterator[str]:
    yield f"### By {title}\n"
    yield what + "\n"
    lines = []
    for name, points in found.items():
        for point in points:
            lines.append([
                SHORT.get(name, name), f"{point[unit]:,.0f}",
                f"{point['deliveries_s']:,.0f}", f"{point['cpu_us']:.1f}",
                number(point["p50_ms"]), number(point["p99_ms"]), faults(point) or "nothing",
            ])  # fmt: skip
    head = ["", title, "deliveries/s", "CPU us per delivery", "p50 ms", "p99 ms", "lost"]
    yield from table(head, lines)


def scenarios(found: dict[str, Any]) -> Iterator[str]:
    for row in found.get("slow", {}).values():
        if "without" in row:
            calm, busy = row["without"], row["with"]
            after = row.get("closed_after_s")
            closed = f". After {after:.0f} s it had closed those 10" if after else ""
            yield (
                f"**Slow readers**, {row['title']}: {row['streams']:,} streams x 20/s had a p99 of "
                f"{calm['p99_ms']:.1f} ms, and {busy['p99_ms']:.1f} ms beside 10 that had stopped "
                f"reading ({row['p99_ratio']:.2f} x). 16 MB published to those 10 alone added "
                f"{row['fill_kb'] / 1024:.1f} MB to the server's memory, 16 of them history"
                f"{closed}.\n"
            )
    for row in found.get("storm", {}).values():
        if "caught_up_s" in row:
            reads = "" if row["reads"] is None else f"The log was read {row['reads']} times. "
            yield (
                f"**A storm of reconnects**, {row['title']}: {row['came_back']:,} of "
                f"{row['streams']:,} streams, each {row['missed']} events behind, had all of them "
                f"after {row['caught_up_s']:.2f} s; {row['lost']} lost, {row['repeated']} repeated"
                f". {reads}Live streams had a p99 of {row['live_p99_ms']:.0f} ms meanwhile, "
                f"{row['calm_p99_ms']:.0f} ms before.\n"
            )
    for row in found.get("big", {}).values():
        if "rss_added_kb" in row:
            yield (
                f"**Big events**, {row['title']}: 1 MiB a second to {row['streams']} streams, half "
                f"of which read 256 KB a second, added {row['rss_added_kb'] / 1024:.0f} MB to "
                f"{row['rss_before_kb'] / 1024:.0f} MB of memory at most. Ten small streams beside "
                f"them had a p99 of {row['small_p99_ms']:.0f} ms meanwhile, "
                f"{row['calm_p99_ms']:.0f} ms before.\n"
            )
    if publish := found.get("publish"):
        yield (
            f"**Publishing without a subscriber** takes {publish['publish_us']:.1f} us on the "
            f"memory backend, and one `json.dumps(..., cls=DjangoJSONEncoder)` of the same "
            f"{publish['bytes']} bytes {publish['dumps_us']:.1f} us: {publish['ratio']:.1f} x.\n"
        )
        yield f"**`publish_many`**, memory backend: {many(publish)}.\n"
    if found.get("apublish"):
        yield from apublish(found["apublish"])


def apublish(found: dict[str, Any]) -> Iterator[str]:
    yield "### `apublish`\n"
    yield (
        f"Memory backend, uvloop, {found['bytes']} bytes, us for each event; SQLite is the database"
        ". Inside a transaction the commit is part of it, at which 100 events are sent.\n"
    )
    full = found["saturated"]

    def cell(name: str) -> str:
        return number(full[name]["deliveries_s"]) if name in full else "not measured"

    yield from table(
        ["", "us", "deliveries/s saturated, 100 streams"],
        [
            ["`apublish(...)`, outside", f"{found['default_us']:.1f}", cell("takeover-using")],
            ["`apublish(..., using=None)`", f"{found['none_us']:.1f}", cell("takeover")],
            ["`publish(...)`, outside", f"{found['sync_us']:.1f}", ""],
            ["`apublish(...)`, inside", f"{found['inside_async_us']:.1f}", ""],
            ["`publish(...)`, inside", f"{found['inside_sync_us']:.1f}", ""],
            ["an empty transaction and coroutine, / 100", f"{found['nothing_us']:.1f}", ""],
        ],
    )


def write(text: str) -> None:
    page = PAGE.read_text()
    if BEGIN not in page or END not in page:
        sys.exit(f"error: {PAGE} has no {BEGIN} and {END}.")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plot", action="store_true", help="draw .bench/benchmarks.png too")
    parser.add_argument("--write", action="store_true", help="update docs/ with both")
    parser.add_argument("--quick", action="store_true", help="from a quick run")
    options = parser.parse_args()
    path = ROOT / ".bench" / ("results-quick.json" if options.quick else "results.json")
    if not path.exists():
        sys.exit("error: there are no results yet: run benchmarks/streams.py.")
    text = "\n".join(markdown(json.loads(path.read_text())))
    if options.quick:
        text = f"**A quick run, for development: these are no measurements.**\n\n{text}"
    print(text)
    if options.write:
        write(text)
    if options.plot or options.write:
        out = PLOT if options.write else ROOT / ".bench" / "benchmarks.png"
        python = ROOT / ".bench" / "venv" / "bin" / "python"
        plot = ROOT / "benchmarks" / "measure" / "plot.py"
        subprocess.run([python, plot, path, out], check=True, timeout=120)


if __name__ == "__main__":
    main()
