"""Tables and plots of video scores."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qmamba.assess.video.scoring import VideoScore
from qmamba.cells import text_cell
from qmamba.errors import ConfigError, QMambaError
from qmamba.files import atomic_write

TABLE_SUFFIXES = (".csv", ".jsonl")
PLOT_SUFFIXES = (".png", ".svg")


def rows_of(scores: Iterable[VideoScore], *, frames: bool = False) -> list[dict[str, Any]]:
    """One row for each video, or with ``frames`` one for each frame that was looked at."""
    if not frames:
        return [score.to_dict() for score in scores]
    return [
        {"video": score.video, "time": frame.time, "score": frame.score, "model": score.model}
        for score in scores
        for frame in score.frames
    ]


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as CSV or JSON lines, whichever the name says.

    Raises:
        ConfigError: another suffix.
        DataError: the file cannot be written.
    """
    check_suffix("table", path, TABLE_SUFFIXES)
    if path.suffix.lower() == ".jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        stream = io.StringIO(newline="")
        writer = csv.writer(stream, lineterminator="\n")
        if rows:
            writer.writerow(rows[0])
        writer.writerows([_cell(value) for value in row.values()] for row in rows)
        text = stream.getvalue()
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def check_suffix(what: str, path: Path, suffixes: Sequence[str]) -> None:
    """Raise ConfigError unless a name has one of the suffixes."""
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"The {what} {str(path)!r} must end in {' or '.join(suffixes)}.")


def plot_scores(path: Path, scores: Sequence[VideoScore]) -> None:
    """Draw the scores over time, a line for each video.

    Raises:
        ConfigError: another suffix.
        QMambaError: matplotlib is not installed.
        DataError: the file cannot be written.
    """
    check_suffix("plot", path, PLOT_SUFFIXES)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise QMambaError(
            f'A plot needs matplotlib ({error}); run pip install "qmamba[plot]".'
        ) from error
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for score in scores:
        times, values = [f.time for f in score.frames], [f.score for f in score.frames]
        # A dollar sign would start a formula in matplotlib.
        label = Path(score.video).name.replace("$", r"\$")
        axes.plot(times, values, marker=".", linewidth=1, label=f"{label} (mean {score.score:.2f})")
    low, high = scores[0].scale
    axes.set(xlabel="seconds", ylabel="score of a frame", ylim=(low, high))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with atomic_write(path) as file:
        figure.savefig(file, format=path.suffix.lower()[1:], dpi=120)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "; ".join(f"{item:.3f}" if isinstance(item, float) else str(item) for item in value)
    text = str(value)
    return text_cell(text) if isinstance(value, str) else text
