"""The metrics against the scorer itself, in every situation that torchmetrics puts them in."""

from __future__ import annotations

import copy
import math
import pickle
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qmamba.assess import Scorer
from qmamba.errors import ConfigError, ShapeError
from tests.assess.samples import pixels, save_tiny
from tests.interop.hosts import host

host("torchmetrics")

from torchmetrics import MetricCollection
from torchmetrics.wrappers import MetricTracker

from qmamba.interop.torchmetrics import (
    QMambaScore,
    QualityImprovement,
    quality_improvement,
    quality_score,
)
from qmamba.models import ScoreScale

RANKS = Path(__file__).with_name("torchmetrics_ranks.py")


def batch(*seeds: int, height: int = 40, width: int = 50) -> Tensor:
    arrays = [torch.from_numpy(pixels(height, width, seed)) for seed in seeds]
    return torch.stack(arrays).permute(0, 3, 1, 2).float() / 255


def raws(scorer: Scorer, images: Tensor) -> list[float]:
    return [score.raw for score in scorer(list(images))]


def test_the_values_are_the_raw_scores(scorer: Scorer) -> None:
    images = batch(1, 2, 3)
    expected = raws(scorer, images)
    assert len(set(expected)) == 3
    found = quality_score(images, scorer=scorer, reduction="none")
    assert found.tolist() == torch.tensor(expected).tolist()
    assert float(quality_score(images, scorer=scorer)) == pytest.approx(statistics.mean(expected))
    total = quality_score(images, scorer=scorer, reduction="sum")
    assert float(total) == pytest.approx(math.fsum(expected))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_batches_add_up(scorer: Scorer, reduction: str) -> None:
    metric = QMambaScore(scorer, reduction=reduction)  # type: ignore[arg-type]
    metric.update(batch(1, 2))
    call = metric(batch(3))
    metric.update(batch(4, height=33, width=64))
    expected = [
        *raws(scorer, batch(1, 2)),
        *raws(scorer, batch(3)),
        *raws(scorer, batch(4, height=33, width=64)),
    ]
    figures = {"mean": statistics.mean(expected), "sum": math.fsum(expected), "none": expected}
    assert metric.compute().tolist() == pytest.approx(figures[reduction])
    assert call.flatten().tolist() == pytest.approx([expected[2]])
    metric.reset()
    metric.update(batch(1))
    assert metric.compute().flatten().tolist() == pytest.approx([expected[0]])


def test_improvement(scorer: Scorer) -> None:
    before, after = batch(1, 4, 3), batch(4, 2, 6, height=80, width=100)
    gains = [b - a for a, b in zip(raws(scorer, before), raws(scorer, after), strict=True)]
    assert any(gain > 0 for gain in gains) and any(gain < 0 for gain in gains)
    metric = QualityImprovement(scorer)
    metric.update(before[:1], after[:1])
    metric.update(before[1:], after[1:])
    found = metric.compute()
    assert float(found["quality_improvement"]) == pytest.approx(statistics.mean(gains), rel=1e-5)
    share = sum(gain > 0 for gain in gains) / 3
    assert float(found["share_improved"]) == pytest.approx(share)
    each = quality_improvement(before, after, scorer=scorer, reduction="none")
    assert each["quality_improvement"].tolist() == pytest.approx(gains, rel=1e-4)
    assert each["share_improved"].tolist() == [float(gain > 0) for gain in gains]
    separate = QualityImprovement(scorer, reduction="none")
    separate.update(before, after)
    assert separate.compute()["share_improved"].tolist() == each["share_improved"].tolist()


def test_improvement_is_positive_for_better_on_both_kinds_of_scale(tmp_path: Path) -> None:
    scale = ScoreScale("test DMOS", 0, 100, False, target_mean=50, target_std=400)
    lower = Scorer.from_pretrained(save_tiny(tmp_path, scale))
    before, after = batch(1), batch(4)
    worse = raws(lower, after)[0] - raws(lower, before)[0]
    found = quality_improvement(before, after, scorer=lower)
    assert float(found["quality_improvement"]) == pytest.approx(-worse, rel=1e-4)
    assert QMambaScore(lower).higher_is_better is False
    assert QualityImprovement(lower).higher_is_better is True


def test_accepted_images(scorer: Scorer) -> None:
    images = batch(1, 2)
    eight_bit = (images * 255).round().to(torch.uint8)
    expected = quality_score(images, scorer=scorer, reduction="none")
    found = quality_score(eight_bit, scorer=scorer, reduction="none")
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    gray = images[:, :1]
    expected = quality_score(gray.expand(-1, 3, -1, -1), scorer=scorer, reduction="none")
    assert quality_score(gray, scorer=scorer, reduction="none").equal(expected)
    assert quality_score(images * 1.4 - 0.2, scorer=scorer).isfinite()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 32, 32), r"\(batch, 1 or 3, height, width\), got \(3, 32, 32\)"),
        (torch.rand(2, 4, 32, 32), "got \\(2, 4, 32, 32\\)"),
        (torch.rand(0, 3, 32, 32), "got \\(0, 3"),
        (255 * torch.rand(1, 3, 32, 32), "divide 8-bit values by 255"),
        (torch.full((1, 3, 32, 32), torch.nan), r"in \[0, 1\], got nan"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), "uint8, got torch.int64"),
        (torch.zeros(1, 3, 32, 32, device="meta"), "on meta and the scorer is on cpu"),
    ],
)
def test_refused_images(scorer: Scorer, images: Tensor, message: str) -> None:
    metric = QMambaScore(scorer)
    with pytest.raises(ShapeError, match=message):
        metric.update(images)


def test_refused_options(scorer: Scorer) -> None:
    with pytest.raises(ConfigError, match="mean, sum or none, got 'median'"):
        QMambaScore(scorer, reduction="median")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="got 2 and 1"):
        QualityImprovement(scorer).update(batch(1, 2), batch(1))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradients_reach_the_images_and_no_graph_is_kept(scorer: Scorer, reduction: str) -> None:
    images = batch(1, 2).requires_grad_()
    metric = QMambaScore(scorer, reduction=reduction)  # type: ignore[arg-type]
    value = metric(images).sum()
    value.backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert not metric.compute().requires_grad
    loss = quality_score(images, scorer=scorer)
    assert loss.requires_grad
    with torch.no_grad():
        assert not quality_score(images, scorer=scorer).requires_grad


def test_the_network_stays_out_of_the_module(scorer: Scorer) -> None:
    metric = QMambaScore(scorer)
    metric.update(batch(1))
    assert not metric.state_dict() and not list(metric.parameters())
    before = raws(scorer, batch(1))
    metric.train()
    assert not metric.scorer.model.training
    metric.half()
    assert raws(metric.scorer, batch(1)) == before
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), metric)
    assert set(module.state_dict()) == {"0.weight", "0.bias"}


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_copies_go_on_by_themselves(scorer: Scorer, reduction: str) -> None:
    metric = QMambaScore(scorer, reduction=reduction)  # type: ignore[arg-type]
    metric.update(batch(1))
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone()):
        other.update(batch(2))
        expected = raws(scorer, batch(1, 2))
        figures = {"mean": statistics.mean(expected), "none": expected}
        assert other.compute().tolist() == pytest.approx(figures[reduction])
    assert metric.compute().flatten().tolist() == pytest.approx(raws(scorer, batch(1)))


def test_collection(scorer: Scorer) -> None:
    collection = MetricCollection(
        {"mean": QMambaScore(scorer), "sum": QMambaScore(scorer, reduction="sum")}
    )
    collection.update(batch(1, 2))
    collection.update(batch(3))
    values = raws(scorer, batch(1, 2, 3))
    found = {key: float(value) for key, value in collection.compute().items()}
    expected = {"mean": statistics.mean(values), "sum": math.fsum(values)}
    assert found == pytest.approx(expected, rel=1e-6)
    gains = MetricCollection([QualityImprovement(scorer)])
    gains.update(batch(1), batch(2))
    assert set(gains.compute()) == {"quality_improvement", "share_improved"}


def test_tracker_knows_the_direction(scorer: Scorer) -> None:
    tracker = MetricTracker(QMambaScore(scorer))
    values = []
    for seed in (1, 4, 2):
        tracker.increment()
        tracker.update(batch(seed))
        values += raws(scorer, batch(seed))
    assert tracker.best_metric() == pytest.approx(max(values))


def test_moving_copies_the_scorer(scorer: Scorer) -> None:
    metric = QMambaScore(scorer)
    assert metric.to("cpu").scorer is scorer
    with pytest.raises(ConfigError, match="'meta' computes nothing"):
        metric.to("meta")
    assert scorer.device.type == "cpu"


def test_a_device_without_double_precision(scorer: Scorer) -> None:
    metric = QMambaScore(scorer)
    metric.update(batch(1))

    def move(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return tensor.clone()

    metric._apply(move)
    assert metric.total.dtype == torch.float32
    metric.update(batch(2))
    expected = statistics.mean(raws(scorer, batch(1, 2)))
    assert float(metric.compute()) == pytest.approx(expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(scorer: Scorer) -> None:
    metric = QMambaScore(scorer).to("cuda")
    metric.update(batch(1, 2).cuda())
    assert scorer.device.type == "cpu"
    expected = statistics.mean(raws(scorer, batch(1, 2)))
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-3)


def test_plots(scorer: Scorer) -> None:
    host("matplotlib", "plot").use("Agg")
    metric = QMambaScore(scorer)
    _, axes = metric.plot([metric(batch(1)), metric(batch(2))])
    assert axes.get_ylim()[0] <= 0 and axes.get_ylim()[1] >= 100
    assert QMambaScore(scorer, reduction="sum").plot_upper_bound is None
    gains = QualityImprovement(scorer)
    gains.update(batch(1), batch(2))
    gains.plot()


def test_two_processes_find_what_one_finds(scorer: Scorer, weights: Path, tmp_path: Path) -> None:
    """Uneven batches, and in the end a rank that has seen no image."""
    result = subprocess.run(
        [sys.executable, str(RANKS), str(weights), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    values = raws(scorer, batch(1, 2, 3))
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert float(found["mean"]) == pytest.approx(statistics.mean(values), rel=1e-6)
        assert found["none"].tolist() == pytest.approx(values)
        assert float(found["share"]) == pytest.approx(0.0)
        assert found["alone"].flatten().tolist() == pytest.approx(values[:1])
