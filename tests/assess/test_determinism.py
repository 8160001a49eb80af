"""The same image gets the same bits, whoever its neighbors are and however large the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qmamba.assess import Scorer, score_paths
from tests.assess.samples import pixels, write_image


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Ten images, six of one size in a row and others between."""
    sizes = [(80, 96)] * 6 + [(33, 40), (20, 90), (80, 96), (80, 96)]
    return [write_image(tmp_path / f"{i}.png", *size, seed=i + 1) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("policy", ["crops", "crops:layout=random,seed=3", "native"])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_alone_and_in_company(
    weights: Path, images: list[Path], policy: str, batch_size: int
) -> None:
    reference = [Scorer.from_pretrained(weights, policy=policy)(path) for path in images]
    scorer = Scorer.from_pretrained(weights, policy=policy, batch_size=batch_size)
    assert scorer(images) == reference
    assert scorer(images) == reference
    assert scorer(images[::-1]) == reference[::-1]
    rows = list(score_paths(scorer, [str(path) for path in images], workers=3))
    assert [row.score for row in rows] == reference


class Calls:
    """Notes the number of views in every call of the network."""

    def __init__(self, scorer: Scorer) -> None:
        self.views: list[int] = []
        self._network = scorer._network

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.views.append(len(images))
        return self._network(images)


def test_every_image_has_calls_of_its_own(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer.from_pretrained(weights, batch_size=8)
    calls = Calls(scorer)
    monkeypatch.setattr(scorer, "_network", calls)
    scorer([pixels(), pixels(), pixels(32, 32)])
    assert calls.views == [5, 5, 1]


def test_large_views_are_spread_over_calls(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer.from_pretrained(weights)
    together = scorer(pixels())
    monkeypatch.setattr("qmamba.assess.calls.PIXELS_PER_CALL", 2 * 32 * 32)
    calls = Calls(scorer)
    monkeypatch.setattr(scorer, "_network", calls)
    assert scorer(pixels()).raw == pytest.approx(together.raw, abs=1e-3)
    assert calls.views == [2, 2, 1]


def test_images_are_queued_off_the_cpu(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [pixels(seed=seed) for seed in range(7)]
    alone = scorer(arrays)
    calls = Calls(scorer)
    monkeypatch.setattr(scorer, "_network", calls)
    monkeypatch.setattr(scorer, "device", torch.device("cuda"))
    scorer.batch_size = 3
    scores = scorer(iter(arrays))
    assert next(scores) == alone[0]
    assert calls.views == [5, 5, 5]
    assert list(scores) == alone[1:]
