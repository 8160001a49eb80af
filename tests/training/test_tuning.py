"""Tuning runs: what they train, what they write, and how they go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qmamba.checkpoints import load_tuned
from qmamba.datasets import RatedDataset
from qmamba.errors import ConfigError, DataError
from qmamba.models import ModelMetadata, QMamba, ScoreScale, create_model
from qmamba.prompts import TuningConfig
from qmamba.training import QualityPart, QualityTask
from qmamba.training.quality.tuning import facing, tune, turned
from qmamba.training.run import TUNED_NAME
from tests.training.samples import (
    CROPS,
    equal,
    quality_task,
    rated,
    small_network,
    small_options,
    weights,
)

STYLE = TuningConfig(prompts=2, width=4)


def described(rising: bool = True) -> QMamba:
    base = small_network()
    scale = ScoreScale("base MOS", 0, 100, rising, 50, 10)
    base.metadata = ModelMetadata(name="small", score=scale)
    torch.nn.init.normal_(base.classifier.head.weight, generator=torch.Generator().manual_seed(0))
    return base


@pytest.mark.parametrize("tuning", [STYLE, TuningConfig("probe"), TuningConfig("full")], ids=str)
def test_the_written_file_is_the_trained_model(tmp_path: Path, tuning: TuningConfig) -> None:
    base, task = described(), quality_task(rated(tmp_path / "data"))
    before = weights(base)
    result = tune(base, task, tuning, small_options(), tmp_path / "run", dtype=torch.float32)
    assert equal(weights(base), before)
    found = load_tuned(base, tmp_path / "run" / TUNED_NAME)
    assert equal(weights(found), weights(result.model)) and not equal(weights(found), before)
    assert result.metadata is not None and found.metadata == result.metadata
    assert found.metadata.name == f"small-{tuning.method}-ratings"
    assert found.metadata.score == task.scale and set(result.figures) == {"srcc", "plcc"}
    assert result.parameters == sum(value.numel() for value in found.trained_state().values())
    training = found.metadata.training
    assert training["steps"] == 8 and training["figures"] == result.figures


def test_a_tuning_learns(tmp_path: Path) -> None:
    base, dataset = described(), rated(tmp_path / "data")
    task = quality_task(dataset, validation=0)
    losses: list[float] = []
    options = small_options(steps=80, learning_rate=0.02, log_every=10)
    tune(base, task, STYLE, options, tmp_path / "run", report=lambda p: losses.append(p.loss))
    assert min(losses) < 0.7 * losses[0]


def test_the_seed_decides_the_run(tmp_path: Path) -> None:
    base, task = described(), quality_task(rated(tmp_path / "data"))
    state = torch.get_rng_state()
    first, same, other = (
        weights(tune(base, task, STYLE, small_options(seed=seed), tmp_path / name).model)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(first, same) and not equal(first, other)


def test_a_run_goes_on_only_as_it_was_started(tmp_path: Path) -> None:
    base, task = described(), quality_task(rated(tmp_path / "data"))
    run: dict[str, Any] = {"options": small_options(), "folder": tmp_path / "run"}
    first = tune(base, task, STYLE, **run)
    with pytest.raises(DataError, match="holds the checkpoint of a run"):
        tune(base, task, STYLE, **run)
    again = tune(base, task, STYLE, **run, resume=True)
    assert equal(weights(first.model), weights(again.model))
    with pytest.raises(DataError, match="another tuning"):
        tune(base, task, TuningConfig(prompts=3, width=4), **run, resume=True)
    with torch.no_grad():
        base.classifier.head.bias.add_(1)
    with pytest.raises(DataError, match="another base"):
        tune(base, task, STYLE, **run, resume=True)
    record = json.loads((tmp_path / "run" / "options.json").read_text())
    assert record["tuning"] == STYLE.to_dict() and record["base"]["name"] == "small"


def test_what_cannot_be_tuned(tmp_path: Path) -> None:
    task = quality_task(rated(tmp_path / "data"))
    with pytest.raises(ConfigError, match="nothing to train"):
        tune(described(), task, TuningConfig("none"), small_options(), tmp_path / "run")
    other = create_model("mambair-nano-x2", dim=12, depths=(1,))
    with pytest.raises(ConfigError, match="A MambaIR cannot be tuned"):
        tune(other, task, STYLE, small_options(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_scores_are_turned_to_the_direction_of_the_base(tmp_path: Path) -> None:
    falling = rated(tmp_path / "data", scale=(0.0, 6.0), higher_is_better=False)
    part = QualityPart(falling, tuple(range(12)))
    (same,) = facing([part], described(rising=False), STYLE)
    assert same is part
    (other,) = facing([part], described(), STYLE)
    assert other.dataset.higher_is_better and other.train == part.train
    np.testing.assert_allclose(other.dataset.scores, 6.0 - falling.scores)
    assert other.dataset.score_name.endswith("MOS, turned")
    task = QualityTask([other], policy=CROPS)
    assert task.scale.higher_is_better and task.scale.name == other.dataset.score_name


def test_a_mix_needs_a_regressor_that_rises(tmp_path: Path) -> None:
    first, second = (
        QualityPart(rated(tmp_path / name, count, name=name), tuple(range(count)))
        for name, count in (("a", 12), ("b", 8))
    )
    assert facing([first, second], described(), STYLE) == [first, second]
    falling = described(rising=False)
    with pytest.raises(ConfigError, match="train the regressor as well"):
        facing([first, second], falling, STYLE)
    assert len(facing([first, second], falling, TuningConfig(width=4, regressor=True))) == 2


def test_turning_twice_is_the_identity(tmp_path: Path) -> None:
    dataset: RatedDataset = rated(tmp_path / "data")
    back = turned(turned(dataset))
    np.testing.assert_allclose(back.scores, dataset.scores)
    np.testing.assert_allclose(turned(dataset).qualities, dataset.qualities)
