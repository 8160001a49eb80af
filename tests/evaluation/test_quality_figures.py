"""Figures with intervals, and medians over repeats."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from qmamba.errors import ConfigError, DataError
from qmamba.evaluation.metrics.correlation import (
    bootstrap_interval,
    bootstrap_values,
    fit_logistic,
    plcc,
    srcc,
)
from qmamba.evaluation.quality import figures
from qmamba.evaluation.quality.aggregate import aggregate, aggregate_markdown, write_aggregate
from qmamba.evaluation.quality.figures import FIGURES, Figure, mean_figure, measure
from qmamba.evaluation.quality.report import DatasetRow, QualityReport

RNG = np.random.default_rng(0)
X = RNG.normal(size=60)
Y = np.tanh(X) + 0.3 * RNG.normal(size=60)


def test_all_figures() -> None:
    found = measure(X, Y, resamples=30)
    assert tuple(found.figures) == FIGURES and not found.notes
    for count in (4, 5):
        curve = fit_logistic(X, Y, count)
        assert found.curves[count] == curve.coefficients
        assert found.figures[f"plcc_logistic{count}"].value == plcc(curve(X), Y)
    mapped = found.mapped(X)
    assert mapped is not None and plcc(mapped, Y) == found.figures["plcc_logistic4"].value


def test_intervals_are_those_of_the_bootstrap() -> None:
    figure = measure(X, Y, names=["srcc"], resamples=200, seed=4, level=0.9).figures["srcc"]
    assert (figure.low, figure.high) == bootstrap_interval(X, Y, srcc, 200, seed=4, level=0.9)


def test_groups_are_drawn_whole() -> None:
    # Each group is one value repeated: a draw of groups holds every value a multiple of 4 times.
    x = np.repeat(np.arange(5.0), 4)
    keys = [f"g{int(value)}" for value in x]

    def whole(first: np.ndarray, _: np.ndarray) -> float:
        counts = np.unique(first, return_counts=True)[1]
        assert first.size == 20 and not (counts % 4).any()
        return float(first.mean())

    values = bootstrap_values(x, x, whole, 50, groups=keys)
    assert values.shape == (50,) and values.std() > np.std(X) / 20
    singles = bootstrap_values(x, x, lambda a, _: float(a.mean()), 2000, seed=1)
    groups = bootstrap_values(x, x, lambda a, _: float(a.mean()), 2000, seed=1, groups=keys)
    assert groups.std() == pytest.approx(2 * singles.std(), rel=0.1)
    with pytest.raises(DataError, match="groups has 3 keys for 20 samples"):
        bootstrap_values(x, x, plcc, 10, groups=[1, 2, 3])


def test_groups_of_one_change_nothing() -> None:
    keys = list(range(len(X)))
    assert bootstrap_interval(X, Y, plcc, 50, groups=keys) == bootstrap_interval(X, Y, plcc, 50)


def test_without_scipy_the_curves_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    found = measure(X, Y, resamples=0)
    assert list(found.figures) == ["srcc", "plcc", "krcc", "rmse"]
    assert "SciPy" in found.notes[0] and found.mapped(X) is None


def test_unusable_input() -> None:
    with pytest.raises(DataError, match="not finite"):
        measure(np.where(X > 1, np.nan, X), Y)
    with pytest.raises(DataError, match="is 2"):
        measure(X, np.full(60, 2.0))
    with pytest.raises(DataError, match="at least 5"):
        measure(X[:4], Y[:4])
    with pytest.raises(ConfigError, match="level"):
        measure(X, Y, level=2.0, resamples=5)


def test_mean_over_sets() -> None:
    first, second = measure(X, Y, resamples=50), measure(-X, Y, resamples=50)
    mean = mean_figure([first, second], ["plcc"])
    assert mean is not None and mean.value == pytest.approx(0) and mean.low is not None
    assert mean_figure([first, measure(X, Y, names=["srcc"], resamples=0)], ["plcc"]) is None


def report(value: float, **changes: object) -> QualityReport:
    row = DatasetRow(
        "live", "test", "content", 0, "LIVE DMOS", (0, 100), False, 100, 5, f"print {value}",
        "crops", {"srcc": Figure(value), "plcc": Figure(value + 0.01)},
    )  # fmt: skip
    plain = QualityReport("m", f"sha {value}", "qmamba", 10, 1.0, "fp32", (row,))
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_medians(tmp_path: Path) -> None:
    values = [0.91, 0.95, 0.90, 0.93, 0.60]
    result = aggregate([report(value) for value in values], seed=1)
    figure = result.figures["live"]["srcc"]
    assert figure.value == 0.91 and result.values["live"]["srcc"] == tuple(values)
    assert figure.low is not None and figure.high is not None
    assert 0.60 <= figure.low < 0.91 < figure.high <= 0.95
    text = aggregate_markdown(result)
    assert "Median of 5 repeats (m)" in text and "| live | 0.910 (" in text
    write_aggregate(tmp_path / "table.md", result)
    write_aggregate(tmp_path / "table.json", result)
    assert json.loads((tmp_path / "table.json").read_text())["figures"]["live"]["srcc"] == (
        figure.to_dict()
    )
    with pytest.raises(ConfigError, match=r"\.json or \.md"):
        write_aggregate(tmp_path / "table.csv", result)


def test_averages_have_medians_too() -> None:
    def two(value: float) -> QualityReport:
        one = report(value)
        rows = (one.rows[0], dataclasses.replace(one.rows[0], dataset="csiq"))
        average = {"plcc": Figure(value), "srcc": Figure(value), "both": Figure(value)}
        return dataclasses.replace(one, rows=rows, average=average)

    result = aggregate([two(0.5), two(0.7), two(0.6)])
    assert result.figures["average"]["both"].value == 0.6
    assert list(result.figures) == ["live", "csiq", "average"]


def test_what_does_not_belong_together() -> None:
    with pytest.raises(DataError, match="at least two reports, got 1"):
        aggregate([report(0.9)])
    with pytest.raises(DataError, match="same weights"):
        aggregate([report(0.9), report(0.9)])
    with pytest.raises(DataError, match="differ in their architecture"):
        aggregate([report(0.9), report(0.8, architecture="timm")])
    row = dataclasses.replace(report(0.8).rows[0], dataset="csiq")
    with pytest.raises(DataError, match="differ in their data sets"):
        aggregate([report(0.9), report(0.8, rows=(row,))])
    with pytest.raises(ConfigError, match="at least 1 resample"):
        aggregate([report(0.9), report(0.8)], resamples=0)
