"""Put tables into docs/quantization.md and docs/results.md, from the JSON of the benchmarks alone.

    python -m benchmarks.quantized_page

Each table stands between `<!-- NAME -->` and `<!-- /NAME -->`. Tables without JSON stay.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.goals import Rows
from benchmarks.render import milliseconds, put, spread, table

HERE = Path(__file__).parent

DOCS = HERE.parent / "docs"


def kib(count: float) -> str:
    return f"{count / 1024:,.0f}".replace(",", " ")


def size_table(rows: Rows) -> str:
    """One line for each network; KiB, and how many times smaller than in float32."""
    sizes = {(row["model"], row["bits"], row["rest"]): row for row in rows}
    columns = list(dict.fromkeys((row["bits"], row["rest"]) for row in rows))
    columns.sort(key=lambda column: (column[1] != "fp32", -column[0]))

    def cell(name: str, bits: int, rest: str) -> str:
        row = sizes[name, bits, rest]
        return f"{kib(row['file_bytes'])} ({row['full_bytes'] / row['file_bytes']:.1f}x)"

    return table(
        ["network", "float32", *(f"W{bits}, rest {rest}" for bits, rest in columns)],
        (
            [name, kib(next(row["full_bytes"] for row in rows if row["model"] == name))]
            + [cell(name, *column) for column in columns]
            for name in dict.fromkeys(row["model"] for row in rows)
        ),
    )


def cost_table(rows: Rows) -> str:
    """Time and memory of each network and precision."""
    full = {row["model"]: row["median_ms"] for row in rows if row["precision"] == "fp32"}
    return table(
        ["network", "image", "precision", "file, KiB", "ms", "speed", "peak memory, MB"],
        (
            [
                row["model"],
                f"{row['side']} x {row['side']}",
                row["precision"],
                kib(row["file_bytes"]),
                spread(row),
                f"{full[row['model']] / row['median_ms']:.2f}x",
                "-" if row["peak_megabytes"] is None else f"{row['peak_megabytes']:.0f}",
            ]
            for row in rows
        ),
    )


def scan_table(rows: Rows) -> str:
    """Each way to scan, and its speed."""

    def speed(row: dict[str, Any]) -> str:
        return "-" if "operands" in row["way"] else f"{row['ratio']:.2f}x"

    return table(
        ["scan", "way", "ms", "speed"],
        ([row["scan"], row["way"], milliseconds(row["median_ms"]), speed(row)] for row in rows),
    )


def agreement_table(rows: Rows) -> str:
    """The range of each comparison, in dB."""
    names = ["prepared", "float64", "changed input", "full precision"]

    def cell(row: dict[str, Any], name: str) -> str:
        return "{:.0f} to {:.0f}".format(*row[name]) if name in row else "-"

    return table(
        ["bits", *names], ([row["bits"], *(cell(row, name) for name in names)] for row in rows)
    )


def value_table(rows: Rows) -> str:
    """PSNR with the original by precision, and between the codes and the others."""
    precisions = list(rows[0]["original"])
    return table(
        ["network", *(f"{p} to original" for p in precisions)]
        + [f"{p} to codes" for p in precisions[1:]],
        (
            [row["model"], *(f"{row['original'][p]:.2f}" for p in precisions)]
            + ["{:.0f} to {:.0f}".format(*row["codes"][p]) for p in precisions[1:]]
            for row in rows
        ),
    )


def nano_table(rows: Rows) -> str:
    """The costs of the networks whose trained weights are in the package."""
    return cost_table([row for row in rows if row["model"].startswith("mambair-nano")])


TABLES: dict[str, tuple[str, str, str, Callable[[Rows], str]]] = {
    "agreement": ("quantization", "prepared_agreement", "rows", agreement_table),
    "values": ("quantization", "codes_or_values", "rows", value_table),
    "sizes": ("quantization", "packed_size", "rows", size_table),
    "cost": ("quantization", "quantized", "networks", cost_table),
    "scans": ("quantization", "quantized", "scans", scan_table),
    "nano cost": ("results", "quantized", "networks", nano_table),
}
"""Name of each place: its page, the JSON and the part of it, and what is made of that."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of JSON")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the pages")
    parser.add_argument("--quick", action="store_true", help="write into a copy that goes away")
    arguments = parser.parse_args()
    if not arguments.quick:
        return fill(arguments.results, arguments.docs)
    with tempfile.TemporaryDirectory() as folder:
        for page, *_ in TABLES.values():
            shutil.copy(arguments.docs / f"{page}.md", folder)
        fill(arguments.results, Path(folder))


def fill(results: Path, docs: Path) -> None:
    """Put every table that there is JSON for into its page."""
    for name, (page, source, part, draw) in TABLES.items():
        path, target = results / f"{source}.json", docs / f"{page}.md"
        if path.exists():
            text = put(
                target.read_text(encoding="utf-8"), name, draw(json.loads(path.read_text())[part])
            )
            target.write_text(text, encoding="utf-8")
        else:
            print(f"{name} stays: {path.name} is not in {results}")


if __name__ == "__main__":
    main()
