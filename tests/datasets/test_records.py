from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from qmamba.datasets import RatedDataset, RatedImage
from qmamba.errors import DataError


def rated(
    name: str, mos: float, content: str | None = None, split: str | None = None
) -> RatedImage:
    return RatedImage(name, Path(name), mos, content or name, split=split, distortion="blur")


IMAGES = (rated("a", 1.0, "x", "train"), rated("b", 4.0, "x", "val"), rated("c", 2.5, "y", "train"))
DATASET = RatedDataset("set", IMAGES, (1.0, 5.0))


def test_views() -> None:
    assert len(DATASET) == 3
    assert list(DATASET) == list(IMAGES)
    assert DATASET[1] is IMAGES[1]
    assert DATASET.scores.tolist() == [1.0, 4.0, 2.5]
    assert DATASET.scores.dtype == np.float64
    assert DATASET.names == ("a", "b", "c")
    assert DATASET.contents == ("x", "y")
    assert DATASET.splits == ("train", "val")
    assert DATASET.index("c") == 2


def test_arrays_cannot_be_written() -> None:
    for array in (DATASET.scores, RatedDataset("set", IMAGES, (0, 5), False).qualities):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 9.0


def test_qualities_turn_dmos() -> None:
    assert DATASET.qualities.tolist() == [1.0, 4.0, 2.5]
    dmos = RatedDataset("set", IMAGES, (0.0, 5.0), higher_is_better=False)
    assert dmos.qualities.tolist() == [4.0, 1.0, 2.5]
    assert dmos.scores.tolist() == [1.0, 4.0, 2.5]


def test_take_and_where() -> None:
    assert DATASET.take([2, 0]).names == ("c", "a")
    assert DATASET.where(split="train").names == ("a", "c")
    assert DATASET.where(contents=["x"]).names == ("a", "b")
    assert DATASET.where(contents=["x"], split="train", distortion="blur").names == ("a",)
    with pytest.raises(DataError, match="its parts are train, val"):
        DATASET.where(split="test")
    with pytest.raises(DataError, match="'a' occurs 2 times"):
        DATASET.take([0, 0])
    with pytest.raises(DataError, match="has no images"):
        DATASET.take([])
    with pytest.raises(DataError, match="no image 'z'"):
        DATASET.index("z")


@pytest.mark.parametrize("mos", [math.nan, math.inf, 5.1, 0.9])
def test_scores_outside_the_scale(mos: float) -> None:
    with pytest.raises(DataError, match="outside the scale 1 to 5"):
        RatedDataset("set", (rated("a", mos),), (1.0, 5.0))


@pytest.mark.parametrize("scale", [(1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_empty_scales(scale: tuple[float, float]) -> None:
    with pytest.raises(DataError, match="score scale"):
        RatedDataset("set", IMAGES, scale)
