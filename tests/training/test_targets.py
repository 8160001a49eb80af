from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qmamba.datasets import RatedDataset, RatedImage
from qmamba.errors import DataError
from qmamba.training.quality.targets import common_scale, fit_target


def dataset(scores: list[float], **options: object) -> RatedDataset:
    images = tuple(
        RatedImage(f"{i}.png", Path(f"{i}.png"), score, f"{i}") for i, score in enumerate(scores)
    )
    values = {"name": "set", "scale": (0.0, 100.0), "score_name": "set DMOS", **options}
    return RatedDataset(images=images, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("higher", [True, False])
def test_one_data_set_keeps_its_scale_and_direction(higher: bool) -> None:
    data = dataset([10, 20, 60, 99], higher_is_better=higher)
    target = fit_target(data, [0, 1, 2])
    learned = target.learned(data.scores)
    assert learned.dtype == np.float32
    assert learned[:3].mean() == pytest.approx(0, abs=1e-6) and learned[:3].std() == pytest.approx(
        1
    )
    scale = target.score_scale()
    assert scale.higher_is_better is higher and (scale.low, scale.high) == (0, 100)
    back = scale.target_mean + scale.target_std * learned
    assert back == pytest.approx(data.scores, rel=1e-6)


@pytest.mark.parametrize("higher", [True, False])
def test_of_several_data_sets_quality_is_learnt(higher: bool) -> None:
    data = dataset([10, 20, 60, 99], higher_is_better=higher)
    target = fit_target(data, [0, 1, 2, 3], quality=True)
    learned = target.learned(data.scores)
    assert np.array_equal(np.argsort(learned), np.argsort(data.qualities))
    scale, back = common_scale(), target.from_common()
    common = scale.target_mean + scale.target_std * learned
    assert common.mean() == pytest.approx(50)
    assert back["offset"] + back["factor"] * common == pytest.approx(data.scores, rel=1e-5)
    assert (back["factor"] > 0) is higher


def test_the_test_part_has_no_say() -> None:
    first = fit_target(dataset([10, 20, 60, 99]), [0, 1, 2])
    second = fit_target(dataset([10, 20, 60, 0]), [0, 1, 2])
    assert first == second


@pytest.mark.parametrize(("positions", "message"), [([0], "at least 2"), ([0, 1], "is 7, so")])
def test_nothing_to_learn(positions: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_target(dataset([7, 7, 9]), positions)
