"""Figure 3: kinds of damage, features and the written panels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmamba.errors import DataError
from qmamba.reproduce.figure3 import KINDS, damage_kind, deep_features, feature_map, write_figure
from tests.assess.samples import POLICY, SCALE, tiny_model
from tests.reproduce.samples import tiny_dataset

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


def clusters(distance: float) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    names = list(KINDS)[:3]
    kinds = [name for name in names for _ in range(6)]
    centers = np.repeat(np.eye(3, 8), 6, axis=0) * distance
    return centers + rng.standard_normal((18, 8)), kinds


def test_every_distortion_has_one_kind() -> None:
    kinds = [damage_kind(f"{number:02d}") for number in range(1, 26)]
    assert [kinds.count(kind) for kind in KINDS] == [3, 5, 2, 5, 3, 5, 2]
    for wrong in (None, "26", "0", "blur"):
        with pytest.raises(DataError, match="01 to 25"):
            damage_kind(wrong)


def test_the_silhouette_tells_clusters_from_noise() -> None:
    near, far = (feature_map("m", *clusters(distance)) for distance in (0.0, 30.0))
    assert near.silhouette < 0.1 < 0.6 < far.silhouette <= 1
    assert far.positions.shape == (18, 2) and np.isfinite(far.positions).all()
    # The same seed gives the same plane.
    assert np.array_equal(far.positions, feature_map("m", *clusters(30.0)).positions)


def test_too_few_images() -> None:
    features, kinds = clusters(1.0)
    for count, labels in ((3, kinds[:3]), (6, kinds[:6])):
        with pytest.raises(DataError, match="at least four images"):
            feature_map("m", features[:count], labels)


def test_the_figure(tmp_path: Path) -> None:
    maps = [feature_map(name, *clusters(distance)) for name, distance in (("a", 1.0), ("b", 9.0))]
    paths = write_figure(maps, tmp_path, notes=["a note"])
    first = [path.read_bytes() for path in paths]
    assert [path.suffix for path in paths] == [".png", ".svg", ".json", ".csv"]
    with Image.open(paths[0]) as image:
        assert image.width > 1.5 * image.height
    content = json.loads(first[2])
    assert content["silhouette"] == {found.model: found.silhouette for found in maps}
    assert content["images"] == 18 and content["notes"] == ["a note"]
    assert len(first[3].splitlines()) == 1 + 2 * 18
    assert [path.read_bytes() for path in write_figure(maps, tmp_path, notes=["a note"])] == first


def test_features_are_the_mean_over_the_views(tmp_path: Path) -> None:
    from qmamba.models import ModelMetadata

    model = tiny_model()
    model.metadata = ModelMetadata(name="tiny", score=SCALE, policy=POLICY)
    dataset = tiny_dataset("kadid10k", tmp_path)
    found = deep_features(model, dataset, [0, 3], crops=2)
    assert found.shape == (2, 16) and found.dtype == np.float64
    assert np.isfinite(found).all() and not np.allclose(found[0], found[1])
