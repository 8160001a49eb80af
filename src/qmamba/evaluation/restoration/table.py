"""Tables of restoration in the manner of papers, as Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qmamba.cells import text_cell
from qmamba.errors import ConfigError
from qmamba.evaluation.restoration.benchmark import SetResult
from qmamba.evaluation.restoration.cost import FULL_BITS, NetworkCost
from qmamba.evaluation.restoration.protocol import Fidelity
from qmamba.files import atomic_write

TABLE_SUFFIXES = (".md", ".csv", ".json")

_MISSING = "-"


@dataclass(frozen=True)
class TableRow:
    """One method at one strength of a degradation."""

    method: str
    """Name of the weights, or of what the input is."""
    strength: str
    """Such as ``x2``, ``sigma 25`` or ``quality 10``."""
    cost: NetworkCost | None
    """Of the network; None for an input."""
    results: tuple[SetResult, ...]
    """On the test sets."""


def write_table(path: Path, rows: Sequence[TableRow], settings: dict[str, Any]) -> None:
    """Write a table in the format that the file's suffix asks for, in one step.

    Args:
        path: ends in one of :data:`TABLE_SUFFIXES`.
        rows: of the table.
        settings: what decided the figures, JSON values; they go into a JSON file.

    Raises:
        ConfigError: another suffix.
        DataError: the file cannot be written.
    """
    check_suffix(path)
    if path.suffix == ".md":
        text = as_markdown(rows)
    elif path.suffix == ".csv":
        text = as_csv(rows)
    else:
        text = as_json(rows, settings)
    with atomic_write(path, "w", newline="") as stream:
        stream.write(text)


def check_suffix(path: Path) -> None:
    """Raise ConfigError unless a table can be written to a path."""
    if path.suffix not in TABLE_SUFFIXES:
        raise ConfigError(
            f"A table is written to a file ending in {', '.join(TABLE_SUFFIXES)}, got "
            f"{path.name!r}."
        )


def table_cells(rows: Sequence[TableRow]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and cells: method, cost, and ``PSNR/SSIM`` (or ``PSNR/SSIM/PSNR-B``) of every set."""
    sets = list(dict.fromkeys(result.set_name for row in rows for result in row.results))
    header = ("method", "input", "parameters", "W/A bits", "bytes", "GMACs", "TBOPs", *sets)
    cells = []
    for row in rows:
        found = {result.set_name: result for result in row.results}
        cells.append(
            (
                row.method,
                row.strength,
                *_cost_cells(row.cost),
                *(_figures(found[name].mean) if name in found else _MISSING for name in sets),
            )
        )
    return header, cells


def as_markdown(rows: Sequence[TableRow]) -> str:
    """A Markdown table."""
    header, cells = table_cells(rows)
    lines = [header, ("---", "---", *("---:",) * (len(header) - 2)), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_csv(rows: Sequence[TableRow]) -> str:
    """One line for each method, strength and set, with plain numbers."""
    stream = io.StringIO(newline="")
    names = (
        *("method", "input", "set", "images", "psnr", "ssim", "psnr_b"),
        *("parameters", "weight_bits", "activation_bits", "bytes", "macs", "bops"),
    )
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cost = {} if row.cost is None else asdict(row.cost)
        for result in row.results:
            writer.writerow(
                {
                    "method": text_cell(row.method),
                    "input": row.strength,
                    "set": result.set_name,
                    "images": len(result.images),
                    **asdict(result.mean),
                    **cost,
                }
            )
    return stream.getvalue()


def as_json(rows: Sequence[TableRow], settings: dict[str, Any]) -> str:
    """Everything, with the figures of every image."""
    content = {
        "settings": settings,
        "rows": [
            {
                "method": row.method,
                "input": row.strength,
                "cost": None if row.cost is None else asdict(row.cost),
                "sets": {
                    result.set_name: {
                        "mean": asdict(result.mean),
                        "images": {
                            name: asdict(figures)
                            for name, figures in zip(result.names, result.images, strict=True)
                        },
                    }
                    for result in row.results
                },
            }
            for row in rows
        ],
    }
    return json.dumps(content, indent=1) + "\n"


def _cost_cells(cost: NetworkCost | None) -> tuple[str, ...]:
    if cost is None:
        return (_MISSING,) * 5
    full = cost.weight_bits == cost.activation_bits == FULL_BITS
    return (
        f"{cost.parameters:,}",
        f"{FULL_BITS}" if full else f"{cost.weight_bits}/{cost.activation_bits}",
        _MISSING if cost.bytes is None else f"{cost.bytes:,}",
        f"{cost.macs / 1e9:.2f}",
        f"{cost.bops / 1e12:.2f}",
    )


def _figures(figures: Fidelity) -> str:
    text = f"{figures.psnr:.2f}/{figures.ssim:.4f}"
    return text if figures.psnr_b is None else f"{text}/{figures.psnr_b:.2f}"
