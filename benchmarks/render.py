"""Put the tables and plots of docs/performance.md in place, from the JSON of the benchmarks alone.

    python -m benchmarks.render

Each table stands between `<!-- NAME -->` and `<!-- /NAME -->`. Plots need matplotlib.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.goals import Goal, Results, Rows, goals

HERE = Path(__file__).parent

PAGE = HERE.parent / "docs" / "performance.md"
LABELS = {
    "qmamba-tiny": "QMamba-T",
    "qmamba-nano": "qmamba-nano",
    "mambair-light-x4": "MambaIR-light x4",
    "mambair-nano-x2": "mambair-nano-x2",
    "mambair-nano-x2-w4a4": "mambair-nano-x2-w4a4",
    "transformers": "transformers, slow path",
    "mambapy": "mambapy, parallel scan",
    "native": "C++ kernel",
    "packed": "C++ kernel, packed weights",
    "chunked": "chunked PyTorch",
    "naive": "loop",
}
WAYS = {
    "module": "module",
    "fp32": "prepared, fp32",
    "bf16": "prepared, bf16",
    "int8": "prepared, int8",
    "loop": "module, loop",
    "chunked": "module, chunked PyTorch",
    "chunked fp32": "prepared, fp32, chunked PyTorch",
}


def label(name: str) -> str:
    model, _, way = name.partition(" ")
    return f"{LABELS[model]} {WAYS[way]}" if model in LABELS and way in WAYS else name


def milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(row: dict[str, Any]) -> str:
    """Median and quartiles."""
    low, high = (milliseconds(row[key]) for key in ("low_quartile_ms", "high_quartile_ms"))
    return f"{milliseconds(row['median_ms'])} ({low} to {high})"


def scan_table(rows: Rows) -> str:
    names = ["naive", "chunked", "mambapy", "transformers", "native", "packed"]

    def cell(row: dict[str, Any], name: str) -> str:
        if name not in row["ms"]:
            return "-"
        time = milliseconds(row["ms"][name]["median_ms"])
        return time if name == "naive" else f"{time} ({row['times'][name]:.3g}x)"

    return table(
        ["shape", "pass", *(f"{LABELS[name]}, ms" for name in names)],
        (
            [
                row["shape"],
                "forward and backward" if row["gradients"] else "forward",
                *(cell(row, name) for name in names),
            ]
            for row in rows
        ),
    )


def models_table(rows: Rows, groups: tuple[str, ...] = ("quality",)) -> str:
    rows = [row for row in rows if row["group"] in groups]
    batches = sorted({row["batch"] for row in rows})
    names = list(dict.fromkeys(row["model"] for row in rows))
    found = {(row["model"], row["batch"]): row for row in rows}
    lines = []
    for name in names:
        line = [label(name)]
        for batch in batches:
            row, swin = found.get((name, batch)), found.get(("Swin-T", batch))
            ratio = f"{row['median_ms'] / swin['median_ms']:.2f}" if row and swin else "-"
            line += [spread(row) if row else "-", ratio]
        lines.append(line)
    head = [item for batch in batches for item in (f"batch {batch}, ms", "of Swin-T")]
    return table(["model", *head], lines)


def restoration_table(rows: Rows) -> str:
    rows = [row for row in rows if row["group"] == "restoration"]
    sides = sorted({row["side"] for row in rows})
    names = list(dict.fromkeys(row["model"] for row in rows))
    found = {(row["model"], row["side"]): row for row in rows}
    return table(
        ["model", *(f"{side} x {side}, ms" for side in sides)],
        (
            [label(name)]
            + [spread(found[name, side]) if (name, side) in found else "-" for side in sides]
            for name in names
        ),
    )


def parts_table(rows: Rows) -> str:
    kinds = ["linear", "integer linear", "convolution", "norm", "scan", "rest"]
    return table(
        ["network", "whole, ms", *kinds, "floor"],
        (
            [f"{LABELS[row['model']]} {row['precision']}, {row['batch']} x {row['side']}²"]
            + [milliseconds(row["whole_ms"])]
            + [milliseconds(row["parts_ms"][k]) if k in row["parts_ms"] else "-" for k in kinds]
            + [milliseconds(row["floor_ms"])]
            for row in rows
        ),
    )


def iqa_table(rows: Rows) -> str:
    sizes = list(dict.fromkeys((row["width"], row["height"]) for row in rows))
    names = list(dict.fromkeys(row["model"] for row in rows))
    found = {(row["model"], row["width"], row["height"]): row for row in rows}
    return table(
        ["model", *(f"{width} x {height}, ms" for width, height in sizes)],
        (
            [label(name)]
            + [spread(found[index]) if (index := (name, *size)) in found else "-" for size in sizes]
            for name in names
        ),
    )


def memory_table(rows: Rows) -> str:
    return table(
        ["what", "network", "precision", "input", "peak, MB", "bytes per pixel"],
        (
            [
                row["kind"],
                LABELS[row["model"]],
                row["precision"],
                f"{row['batch']} x {row['side']}²",
                f"{row['bytes'] / 1e6:.0f}",
                str(row["bytes_per_pixel"]),
            ]
            for row in rows
        ),
    )


def scaling_table(rows: Rows) -> str:
    return table(
        ["network", "image", "seconds", "microseconds per pixel", "time in the system"],
        (
            [
                LABELS[row["model"]],
                f"{row['side']} x {row['side']}",
                f"{min(row['seconds']):.2f}",
                f"{row['microseconds']:.2f}",
                f"{row['system_share']:.0%}",
            ]
            for row in rows
        ),
    )


def training_table(rows: Rows) -> str:
    found = {(row["model"], row["precision"], row["who"]): row for row in rows}
    lines = []
    for model, precision in dict.fromkeys((row["model"], row["precision"]) for row in rows):
        own = found[model, precision, "here"]
        line = [f"{LABELS[model]} {precision}, {own['batch']} x {own['side']}²", spread(own)]
        line.append(f"{1e3 * own['batch'] / own['median_ms']:.1f}")
        for who in ("before", "Swin-T"):
            other = found.get((model, precision, who))
            ratio = own["median_ms"] / other["median_ms"] if other else 0
            line.append(f"{milliseconds(other['median_ms'])} ({ratio:.2f}x)" if other else "-")
        lines.append(line)
    return table(["network", "step, ms", "images per second", "before, ms", "Swin-T, ms"], lines)


def busy_table(rows: Rows) -> str:
    head = ("one run of", "others", "default, ms", "brief waiting, ms", "brief to default")
    return table(
        head,
        (
            [row["work"], str(row["busy"])]
            + [milliseconds(row[key]) for key in ("default_ms", "brief_ms")]
            + [f"{row['brief_ms'] / row['default_ms']:.2f}x"]
            for row in rows
        ),
    )


def agreement_table(rows: Rows) -> str:
    return table(
        ["precision", "views", "SRCC with ratings", "SRCC with fp32", "largest change", "typical"],
        (
            [
                row["precision"],
                row["policy"].split("(")[0] + (f", {count[1]}" if (count := _count(row)) else ""),
                f"{row['srcc'][0]:.4f}",
                f"{row['srcc_to_first']:.4f}",
                f"{row['largest_change']:.4f}",
                f"{row['typical_change']:.4f}",
            ]
            for row in rows
        ),
    )


def _count(row: dict[str, Any]) -> re.Match[str] | None:
    return re.search(r"count=(\d+)", row["policy"])


def folder_table(reports: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, report in reports.items():
        if not name.startswith("score_folder"):
            continue
        precision = report["options"][-1] if report["options"] else "fp32"
        for row in report["rows"]:
            seconds = "-" if name.endswith("memory") else f"{row['seconds']:.1f}"
            pace = "" if name.endswith("memory") else f"{report['images_per_second']:.1f}"
            last = row is report["rows"][-1]
            peak = f"{row['peak_megabytes']:.0f} MB"
            lines.append([precision, str(row["images"]), seconds, pace if last else "", peak])
    return table(["precision", "images", "seconds", "images per second", "peak memory"], lines)


def scale_tables(report: dict[str, Any]) -> str:
    """Scoring at scale: whatever parts of `benchmarks/scale.py` have been run."""
    parts = []
    if "profile" in report:
        steps = report["profile"]["processor_milliseconds_per_image"]
        rows = [[name, f"{value:.2f}"] for name, value in steps.items()]
        parts.append(table(["step, one thread", "processor ms per image"], rows))
    if "throughput" in report:
        found = report["throughput"]
        rows = [
            [
                name,
                f"{pace:.1f}",
                f"{found['ratio'][name]:.2f}",
                f"{1e3 * found['processor_seconds_per_image'][name]:.1f}",
            ]
            for name, pace in found["images_per_second"].items()
        ]
        head = (f"command, {found['cores']} cores", "images/s", "ratio", "processor ms per image")
        parts.append(table(head, rows))
    rows = []
    if "memory" in report:
        for size, peak in report["memory"]["peak_megabytes"].items():
            rows.append([f"peak memory of a run over {int(size):,} images", f"{peak:.0f} MB"])
    if "planning" in report:
        names = report["planning"]["names"]
        for what, title in (("plan", "planning"), ("resume", "planning again at a second start")):
            spent = report["planning"][what]
            rows.append(
                [
                    f"{title}, {names:,} names",
                    f"{spent['seconds']:.0f} s ({spent['processor_seconds']:.0f} s of processor),"
                    f" {spent['megabytes']:.0f} MB",
                ]
            )
    if "run" in report:
        run = report["run"]
        rows.append(
            [
                f"run over {run['images']:,} files in {run['shards']} tar files, `fast`, int8,"
                f" killed {run['kills']} times",
                f"{run['seconds']:.0f} s, {run['images_per_second']:.1f} images/s,"
                f" {run['bytes_per_image']:.0f} bytes of scores per image",
            ]
        )
    if "extrapolation" in report:
        wanted = report["extrapolation"]["images"]
        for way, hours in report["extrapolation"]["core_hours"].items():
            rows.append([f"{wanted:,} images, {way}", f"{hours:,.0f} core-hours"])
        rows.append(
            [
                "factor to the largest run that was made",
                f"{report['extrapolation']['factor']:,.0f}",
            ]
        )
    if rows:
        parts.append(table(["what", "figure"], rows))
    return "\n\n".join(parts)


def goals_table(results: Results) -> str:
    def line(goal: Goal) -> list[str]:
        found = goal.measured(results)
        if found is None:
            return [goal.what, goal.wanted, "-", "-", "not measured"]
        floor = goal.floor(results, found)
        return [
            goal.what,
            goal.wanted,
            f"{found:.3g}x",
            "-" if floor is None else f"{floor:.3g}x",
            "met" if goal.is_met(found) else "**missed**",
        ]

    return table(["goal", "wanted", "measured", "floor", ""], map(line, goals()))


TABLES: dict[str, tuple[str, Callable[[Rows], str]]] = {
    "scan": ("scan", scan_table),
    "models": ("models", models_table),
    "fallback": ("models", lambda rows: models_table(rows, ("fallback",))),
    "avx2": ("models", lambda rows: models_table(rows, ("avx2",))),
    "restoration": ("models", restoration_table),
    "zen5": ("models_zen5", models_table),
    "zen5 restoration": ("models_zen5", restoration_table),
    "amx": ("models_amx", models_table),
    "amx restoration": ("models_amx", restoration_table),
    "parts": ("parts", parts_table),
    "iqa": ("iqa", iqa_table),
    "memory": ("memory", memory_table),
    "scaling": ("scaling", scaling_table),
    "training": ("training", training_table),
    "busy": ("busy", busy_table),
    "agreement": ("score_agreement", agreement_table),
}


def put(page: str, name: str, content: str) -> str:
    """The page with one table replaced."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    if not re.search(pattern, page, flags=re.DOTALL):
        raise SystemExit(f"The page has no place <!-- {name} --> ... <!-- /{name} -->")
    return re.sub(pattern, lambda m: f"{m[1]}\n{content}\n\n{m[2]}", page, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of JSON")
    parser.add_argument("--page", type=Path, default=PAGE, help="Markdown with the places")
    parser.add_argument("--quick", action="store_true", help="write into a copy that goes away")
    arguments = parser.parse_args()
    if not arguments.quick:
        return fill(arguments.results, arguments.page)
    with tempfile.TemporaryDirectory() as folder:
        fill(arguments.results, Path(shutil.copy(arguments.page, folder)))


def fill(folder: Path, target: Path) -> None:
    """Put every table that there is JSON for into the page, and draw its plots."""
    reports = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    results: Results = {
        name: report["rows"] for name, report in reports.items() if "rows" in report
    }
    for part in ("networks", "scans"):
        if part in reports.get("quantized", {}):
            results[f"quantized {part}"] = reports["quantized"][part]
    page = target.read_text(encoding="utf-8")
    for name, (source, draw) in TABLES.items():
        if source not in results:
            print(f"{name} stays: {source}.json is not in {folder}")
            continue
        try:
            page = put(page, name, draw(results[source]))
        except KeyError as error:
            print(f"{name} stays: {source}.json is of another version, without {error}")
    page = put(page, "folder", folder_table(reports))
    if "scale" in reports:
        page = put(page, "scale", scale_tables(reports["scale"]))
    page = put(page, "goals", goals_table(results))
    target.write_text(page, encoding="utf-8")
    try:
        from benchmarks.plots import draw_plots
    except ImportError as error:
        print(f"plots stay ({error})")
        return
    draw_plots(results, target.parent / "figures", label)


if __name__ == "__main__":
    main()
