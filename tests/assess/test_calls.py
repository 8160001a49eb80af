"""Images that share a call of the network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qmamba.assess import ImageViews, Score, Scorer
from qmamba.assess.calls import grouped
from qmamba.errors import ConfigError, ImageError, QMambaError
from tests.assess.samples import pixels


def views(side: int, count: int = 2, seed: int = 0) -> ImageViews:
    generator = torch.Generator().manual_seed(seed)
    return ImageViews(torch.rand(count, 3, side, side, generator=generator), side, side, (), None)


def test_groups() -> None:
    error = ImageError("bad")
    a, b, c, d, e = (views(side) for side in (32, 32, 32, 40, 40))
    entries: list[ImageViews | QMambaError] = [error, a, error, b, c, d, error, e]
    found = list(grouped(entries, 2))
    assert found == [[error], [a, error, b], [c], [d, error, e]]
    assert [x for group in grouped(entries, 1) for x in group] == entries
    assert list(grouped([], 3)) == []


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_the_same_scores_to_rounding(scorer: Scorer, number: int) -> None:
    images = [pixels(seed=seed) for seed in range(5)] + [pixels(40, 40, seed=1)]
    alone = scorer(images)
    together = scorer.with_batch_images(number)
    scores = together(images)
    again = together(images)
    assert scores == again, "the same images in the same order give the same bits"
    for one, other in zip(alone, scores, strict=True):
        assert one.raw == pytest.approx(other.raw, rel=1e-4, abs=1e-2)
    if number == 1:
        assert scores == alone
    assert scorer.batch_images == 1


def test_errors_keep_their_place(scorer: Scorer, tmp_path: Path) -> None:
    error = ImageError("bad")
    image = scorer.prepare(pixels())
    results = list(scorer.with_batch_images(2).score_prepared([image, error, image, error, image]))
    assert [isinstance(result, Score) for result in results] == [True, False, True, False, True]
    assert results[1] is error
    with pytest.raises(ConfigError, match="batch_images must be a whole number"):
        scorer.with_batch_images(0)


def test_memory_that_does_not_suffice_for_a_group(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = scorer.with_batch_images(3)
    image = scorer.prepare(pixels())
    single = len(image.views)
    network = together._network

    def small(batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > single:
            raise MemoryError
        return network(batch)

    monkeypatch.setattr(together, "_network", small)
    results = list(together.score_prepared([image] * 3))
    assert [result.raw for result in results if isinstance(result, Score)] == 3 * [
        scorer(pixels()).raw
    ]
