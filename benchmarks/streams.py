"""What a stream costs, and an event on it: ``python benchmarks/streams.py``, or ``make bench``.

Every server gets the first core, and the client the last. Figures are of one run on one machine,
so that the ratios mean something where the figures do not. They are written to
.bench/results.json (.bench/results-quick.json), of which ``benchmarks/report.py`` makes tables and
a plot.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from benchmarks.measure import apublish, idle, rows, scenarios, sweeps
from benchmarks.measure.goals import goals
from benchmarks.measure.servers import PEERS
from benchmarks.measure.tools import CACHE, machine, prepare, versions

SECTIONS = ("rows", "sweeps", "slow", "storm", "big", "idle", "publish", "apublish")


def run(section: str, names: list[str] | None, quick: bool) -> dict[str, Any]:
    """Measure one section. ``names``: not the section's own servers, but these."""
    if section == "rows":
        names = names or [name for name in PEERS if PEERS[name].row]
        results = rows.measure(names, rows.row, quick=quick)
        rows.duel(["nchan", "takeover"], results, quick=quick)
        rows.duel(["takeover-bolt", "bolt"], results, quick=quick)
        return results
    if section == "sweeps":
        return sweeps.measure(names, quick=quick)
    if section == "idle":
        return rows.measure(names or list(idle.STREAMS), idle.logged_in, quick=quick)
    if section == "publish":
        return idle.publishing(quick=quick)
    if section == "apublish":
        return apublish.apublish(quick=quick)
    return rows.measure(names or ["takeover"], getattr(scenarios, section), quick=quick)


def load(quick: bool) -> dict[str, Any]:
    path = file(quick)
    return json.loads(path.read_text()) if path.exists() else {}


def file(quick: bool) -> Path:
    return CACHE / ("results-quick.json" if quick else "results.json")


def save(section: str, result: dict[str, Any], quick: bool) -> None:
    """Merge a section into the results; of one with rows, the rows that were measured."""
    results = load(quick)
    sections = results.setdefault("sections", {})
    if section in sections and section != "sweeps":
        result = {**sections[section]["result"], **result}
    sections[section] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "result": result,
    }
    results["machine"] = machine()
    results["versions"] = versions()
    file(quick).write_text(json.dumps(results, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="section", help=" ".join(SECTIONS) + " all")
    parser.add_argument("--only", metavar="NAME,...", help="servers: " + " ".join(PEERS))
    parser.add_argument("--quick", action="store_true", help="short and rough, for development")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else None
    for name in names or []:
        if name not in PEERS:
            parser.error(f"--only: {name!r} is none of {', '.join(PEERS)}")
    wanted = options.sections or ["all"]
    for section in wanted:
        if section not in (*SECTIONS, "all"):
            parser.error(f"{section!r} is none of {', '.join(SECTIONS)}, all")
    prepare()
    for section in SECTIONS if "all" in wanted else wanted:
        begin = time.monotonic()
        print(f"{section}:", flush=True)
        save(section, run(section, names, options.quick), options.quick)
        print(f"  ({time.monotonic() - begin:.0f} s)", flush=True)
    print()
    for goal in goals(load(options.quick)["sections"]):
        met = {True: "met", False: "MISSED", None: ""}[goal.met]
        print(f"{goal.what:<66} {goal.wanted:>10} {goal.found:>24}  {met}")


if __name__ == "__main__":
    main()
