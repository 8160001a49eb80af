"""Scatter plots."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from qmamba.errors import ConfigError, QMambaError
from qmamba.evaluation.quality.evaluation import Evaluation, evaluate
from qmamba.evaluation.quality.plots import check_plot_path, plot_evaluation
from tests.evaluation.rated_images import rated, scorer


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    folder = tmp_path_factory.mktemp("images")
    data = [rated(folder / name, name=name) for name in ("cost $5 and $6", "second")]
    return evaluate(scorer(), data, resamples=0)


def test_png_and_svg(evaluation: Evaluation, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_evaluation(tmp_path / "plot.png", evaluation)
    with Image.open(tmp_path / "plot.png") as image:
        assert image.width > image.height > 300
    for name in ("one.svg", "two.svg"):
        plot_evaluation(tmp_path / name, evaluation)
    text = (tmp_path / "one.svg").read_text()
    assert "cost $5 and $6, 12 images" in text and "SRCC" in text
    assert text == (tmp_path / "two.svg").read_text()


def test_wrong_suffix(evaluation: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.png or \.svg"):
        plot_evaluation(tmp_path / "plot.gif", evaluation)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(QMambaError, match=r'pip install "qmamba\[plot\]"'):
        check_plot_path("plot.png")
