"""The plots of docs/performance.md: SVG with the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib import pyplot
from matplotlib.figure import Figure

from benchmarks.goals import Results, Rows

OURS, OTHERS = "#2b6cb0", "#a0aec0"

matplotlib.use("svg")
matplotlib.rcParams.update(
    {
        "svg.hashsalt": "qmamba",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)


def draw_plots(results: Results, folder: Path, label: Callable[[str], str]) -> None:
    """Draw what there are figures for."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = {
        "models": lambda: models(results["models"], label),
        "scan": lambda: scan(results["scan"]),
        "scaling": lambda: scaling(results["scaling"], results["memory"]),
    }
    for name, draw in plots.items():
        try:
            figure = draw()
        except KeyError as error:
            print(f"no plot {name}: {error} is not there")
            continue
        figure.tight_layout()
        path = folder / f"speed_{name}.svg"
        figure.savefig(path, format="svg", metadata={"Date": None})
        text = path.read_text(encoding="utf-8")
        path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")
        pyplot.close(figure)


def models(rows: Rows, label: Callable[[str], str]) -> Figure:
    """Bars with quartiles: one image of 224 x 224."""
    rows = [row for row in rows if row["group"] == "quality" and row["batch"] == 1]
    rows = sorted(rows, key=lambda row: -row["median_ms"])
    figure, axes = pyplot.subplots(figsize=(6.5, 0.27 * len(rows) + 0.7))
    values = [row["median_ms"] for row in rows]
    low = [row["median_ms"] - row["low_quartile_ms"] for row in rows]
    high = [row["high_quartile_ms"] - row["median_ms"] for row in rows]
    colors = [OURS if row["model"].startswith("qmamba") else OTHERS for row in rows]
    axes.barh([label(row["model"]) for row in rows], values, xerr=(low, high), color=colors)
    axes.set_xlabel("milliseconds for one image of 224 x 224")
    return figure


def scan(rows: Rows) -> Figure:
    """How many times faster than the loop, on a logarithmic axis."""
    rows = [row for row in rows if not row["gradients"]]
    names = {"native": OURS, "chunked": "#90cdf4", "mambapy": "#cbd5e0", "transformers": OTHERS}
    figure, axes = pyplot.subplots(figsize=(6.5, 2.8))
    for index, (name, color) in enumerate(names.items()):
        found = [(i, row["times"][name]) for i, row in enumerate(rows) if name in row["times"]]
        at = [i + 0.2 * (index - 1.5) for i, _ in found]
        axes.bar(at, [times for _, times in found], width=0.2, color=color, label=name)
    axes.set_yscale("log")
    axes.axhline(1, color="black", linewidth=0.6)
    axes.set_xticks(range(len(rows)), [row["shape"] for row in rows])
    axes.set_ylabel("times faster than the loop")
    axes.legend(frameon=False, ncols=4)
    return figure


def scaling(seconds: Rows, memory: Rows) -> Figure:
    """Time and memory per pixel over the side of the image."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(6.5, 2.6))
    memory = [r for r in memory if r["kind"] == "inference" and r["precision"] == "fp32"]
    for axes, rows, key in ((left, seconds, "microseconds"), (right, memory, "bytes_per_pixel")):
        for name in dict.fromkeys(row["model"] for row in rows):
            found = sorted((row["side"], row[key]) for row in rows if row["model"] == name)
            axes.plot(*zip(*found, strict=True), marker="o", markersize=3, label=name)
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("side of the image in pixels")
    left.set_ylabel("microseconds per pixel")
    right.set_ylabel("peak bytes per pixel")
    left.legend(frameon=False, fontsize=7)
    return figure
