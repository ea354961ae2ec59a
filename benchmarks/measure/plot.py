"""Draw the results: ``plot.py RESULTS.json OUT.png``. Runs in the venv of the benchmarks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

INK, SOFT, LINE = "#1d2433", "#667085", "#e4e7ec"
OURS, NCHAN, OTHER = "#0c7a4d", "#d97706", "#b6bdc9"
NAMES = {
    "floor": "write(2) in C",
    "nchan": "nginx + nchan",
    "takeover": "flosse_bus",
    "takeover-bolt": "flosse_bus, newer Python",
    "stock": "flosse_bus, stock ASGI",
    "gthread": "flosse_bus, gthread",
    "bare": "Django, bare queue",
    "fastapi": "FastAPI, queue",
    "bolt": "django-bolt, queue",
    "eventstream": "eventstream, uvicorn",
    "eventstream-daphne": "eventstream, daphne",
    "pushpin": "Pushpin, eventstream",
    "channels": "Channels, daphne",
}
COLOURS = {"takeover": OURS, "nchan": NCHAN}


def dots(axes: Axes, rows: dict[str, Any], title: str, text: str, value: Any) -> None:
    """Draw one figure of every server, on a log scale: a dot, as a bar would begin nowhere."""
    shown = {name: value(rows[name]) for name in NAMES if "steady" in rows.get(name, {})}
    names = list(shown)[::-1]
    for place, name in enumerate(names):
        colour = COLOURS.get(name, OTHER)
        axes.axhline(place, color=LINE, linewidth=1, zorder=0)
        axes.plot(shown[name], place, "o", color=colour, markersize=9)
        label = f"{shown[name]:,.0f}" if shown[name] >= 100 else f"{shown[name]:.1f}"
        axes.annotate(
            label, (shown[name], place), xytext=(12, 0), textcoords="offset points", va="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
        )  # fmt: skip
    axes.set_yticks(range(len(names)), [NAMES[name] for name in names])
    axes.set_xscale("log")
    axes.margins(x=0.06, y=0.08)
    if shown:
        low, high = min(shown.values()), max(shown.values())
        axes.set_xlim(low / 1.5, high * (high / low) ** 0.25 * 1.5)
    axes.xaxis.set_visible(False)
    axes.tick_params(axis="y", length=0)
    heading(axes, title, text)
    axes.spines["bottom"].set_visible(False)


def lines(
    axes: Axes, sweep: dict[str, Any], over: str, key: str, title: str, text: str, low: float = 0
) -> None:
    """Draw a figure over what was swept. ``low``: the beginning of a log scale."""
    for name, points in sweep.items():
        across, up = [point[over] for point in points], [point[key] for point in points]
        colour = COLOURS.get(name, OTHER)
        axes.plot(across, up, "-o", color=colour, linewidth=2, markersize=5)
        if points:
            axes.annotate(
                NAMES.get(name, name), (across[-1], up[-1]), xytext=(7, 0), color=colour,
                textcoords="offset points", va="center", fontsize=9,
            )  # fmt: skip
    axes.set_xscale("log")
    ticks = sorted({point[over] for points in sweep.values() for point in points})
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.margins(x=0.08)
    axes.set_xlim(right=max(ticks, default=1) * 6)
    axes.grid(axis="y", color=LINE)
    if low:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.minorticks_off()
    axes.set_ylim(bottom=low)
    axes.tick_params(axis="y", length=0)
    heading(axes, title, text)


def heading(axes: Axes, title: str, text: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=20)
    axes.text(0, 1.03, text, transform=axes.transAxes, fontsize=9, color=SOFT)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LINE)


def main(results: Path, out: Path) -> None:
    sections = json.loads(results.read_text())["sections"]
    rows = sections.get("rows", {}).get("result", {})
    sweeps = sections.get("sweeps", {}).get("result", {})
    plt.rcParams.update({
        "font.family": "DejaVu Sans", "font.size": 9, "text.color": INK, "axes.edgecolor": LINE,
        "xtick.color": SOFT, "ytick.color": INK, "axes.axisbelow": True,
    })  # fmt: skip
    figure, axes = plt.subplots(2, 3, figsize=(15, 8.4), facecolor="white")
    usual = "1,000 streams x 20 events/s where sustained, log scale"
    dots(axes[0][0], rows, "CPU per delivery, us", usual, lambda row: row["steady"]["cpu_us"])
    dots(axes[0][1], rows, "Latency p99, ms", usual, lambda row: row["steady"]["p99_ms"])
    dots(
        axes[0][2], rows, "Deliveries/s, saturated", "100 streams, without loss, log scale",
        lambda row: row["saturated"]["deliveries_s"],
    )  # fmt: skip
    across = "20,000 deliveries/s in all"
    found = sweeps.get("streams", {})
    lines(axes[1][0], found, "streams", "cpu_us", "CPU per delivery by streams, us", across)
    lines(axes[1][1], found, "streams", "p99_ms", "Latency p99 by streams, ms", across)
    lines(
        axes[1][2], sweeps.get("rate", {}), "rate", "deliveries_s", "Deliveries/s by events/s",
        "100 streams, log scale", 1000,
    )  # fmt: skip
    figure.tight_layout(w_pad=3, h_pad=3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
