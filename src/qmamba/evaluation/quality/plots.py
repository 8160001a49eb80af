"""Scatter plots of predictions against opinion scores, with the fitted logistic curve."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qmamba.errors import ConfigError, QMambaError
from qmamba.evaluation.quality.evaluation import Evaluation
from qmamba.evaluation.quality.predictions import Prediction
from qmamba.evaluation.quality.report import DatasetRow
from qmamba.files import atomic_write

PLOT_SUFFIXES = (".png", ".svg")
"""Endings of the plots that can be written."""

_COLUMNS = 3
_PANEL = 3.6
_DOTS = "#2b6c99"
_CURVE = "#c2410c"


def check_plot_path(path: str | os.PathLike[str]) -> None:
    """Check, before hours of work, that a plot can be drawn under this name.

    Raises:
        ConfigError: another suffix.
        QMambaError: matplotlib is not installed.
    """
    if Path(path).suffix.lower() not in PLOT_SUFFIXES:
        raise ConfigError(f"The plot {str(path)!r} must end in {' or '.join(PLOT_SUFFIXES)}.")
    _figure_class()


def plot_evaluation(path: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """Draw one panel per data set: a dot per image, prediction to the right, score upwards.

    Scores stand in their native direction, and the curve is the logistic with four coefficients.

    Args:
        path: the image, ``.png`` or ``.svg``.
        evaluation: what is drawn.

    Raises:
        ConfigError: another suffix.
        QMambaError: matplotlib is not installed.
        DataError: the file cannot be written.
    """
    check_plot_path(path)
    from matplotlib import rc_context

    # Without the date and random names the same evaluation gives the same file, and a dollar sign
    # in a name is no formula.
    settings: dict[Any, Any] = {
        "svg.hashsalt": "qmamba",
        "svg.fonttype": "none",
        "text.parse_math": False,
    }
    suffix = Path(path).suffix.lower().removeprefix(".")
    metadata = {"Date": None} if suffix == "svg" else {"Software": None}
    with rc_context(settings), atomic_write(path) as stream:
        _drawn(evaluation).savefig(stream, format=suffix, dpi=150, metadata=metadata)


def _drawn(evaluation: Evaluation) -> Any:
    rows = evaluation.report.rows
    columns = min(_COLUMNS, len(rows))
    lines = math.ceil(len(rows) / columns)
    width = _PANEL * columns + (1.0 if columns == 1 else 0.0)
    figure = _figure_class()(figsize=(width, _PANEL * lines + 0.3), layout="constrained")
    panels = np.atleast_1d(figure.subplots(lines, columns, squeeze=False)).ravel()
    for panel, row, predictions in zip(panels, rows, evaluation.predictions, strict=False):
        _draw(panel, row, predictions)
    for panel in panels[len(rows) :]:
        panel.set_visible(False)
    figure.suptitle(evaluation.report.model, fontsize=10)
    return figure


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise QMambaError('Plots need matplotlib; run pip install "qmamba[plot]".') from error
    return Figure


def _draw(panel: Any, row: DatasetRow, predictions: Sequence[Prediction]) -> None:
    good = [prediction for prediction in predictions if prediction.raw is not None]
    x = np.array([prediction.raw for prediction in good], dtype=np.float64)
    y = np.array([prediction.image.mos for prediction in good], dtype=np.float64)
    # Ten thousand dots of the size that suits a hundred would be one blot.
    size = min(18.0, max(2.0, 4000.0 / len(good)))
    panel.scatter(x, y, s=size, c=_DOTS, alpha=0.5, linewidths=0, rasterized=len(good) > 2000)
    mapped = [prediction.mapped for prediction in good]
    if all(value is not None for value in mapped):
        order = np.argsort(x)
        panel.plot(x[order], np.array(mapped, dtype=np.float64)[order], color=_CURVE, linewidth=1.8)
    panel.set_xlabel("prediction", fontsize=8)
    better = "higher" if row.higher_is_better else "lower"
    panel.set_ylabel(f"{row.score_name} ({better} is better)", fontsize=8)
    panel.tick_params(labelsize=7)
    parts = [
        f"{name.upper()} {row.figures[name].value:.3f}"
        for name in ("srcc", "plcc")
        if name in row.figures
    ]
    panel.set_title(f"{row.dataset}, {row.images} images\n{', '.join(parts)}", fontsize=9)
    panel.grid(alpha=0.25, linewidth=0.5)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
