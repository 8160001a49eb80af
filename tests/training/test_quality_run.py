from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from qmamba.assess import Scorer
from qmamba.checkpoints import load
from qmamba.checkpoints.loading import usable_device
from qmamba.datasets import RatedDataset, Split, read_splits, split_by_content, split_by_image
from qmamba.errors import CheckpointError, ConfigError, DataError
from qmamba.models import create_model
from qmamba.training import QualityTask
from qmamba.training.quality.initial_network import starting_model
from qmamba.training.quality.run import train_quality
from qmamba.training.quality.splits import hold_out, kept_split, splits_path
from qmamba.training.run import run_folder, shown_origin
from tests.assess.samples import save_tiny
from tests.training.samples import (
    CROPS,
    equal,
    quality_task,
    rated,
    small_network,
    small_options,
    weights,
)


@pytest.fixture
def data(tmp_path: Path) -> RatedDataset:
    return rated(tmp_path / "rated", scale=(0.0, 10.0))


@pytest.fixture
def task(data: RatedDataset) -> QualityTask:
    return quality_task(data)


def test_what_a_run_leaves(data: RatedDataset, task: QualityTask, tmp_path: Path) -> None:
    folder, card = tmp_path / "run", {"terms": "mine"}
    model = small_network()
    result = train_quality(model, task, small_options(seed=3), folder, name="mine", card=card)
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.pt",
        "log.jsonl",
        "model.safetensors",
        "options.json",
    ]
    loaded = load(folder / "model.safetensors")
    assert equal(weights(loaded), weights(model))
    scorer = Scorer(loaded)
    assert scorer.policy == CROPS and (scorer.scale.low, scorer.scale.high) == (0, 10)
    assert scorer.scale.target_mean == pytest.approx(data.scores[4:].mean())
    told = scorer.metadata.training
    assert told["figures"] == result.figures and told["steps"] == 8 and told["terms"] == "mine"
    assert "8 training images" in told["data"] and "seed 3" in told["protocol"]
    assert told["options"] == small_options(seed=3).to_dict()
    record = json.loads((folder / "options.json").read_text())
    assert record["name"] == "mine" and record["task"]["loss"] == "smooth_l1"
    assert record["config"] == model.config.to_dict() and record["from"] is None


def test_resume_wants_the_same_run(data: RatedDataset, task: QualityTask, tmp_path: Path) -> None:
    train_quality(small_network(), task, small_options(), tmp_path, name="a")
    first = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(DataError, match="--resume"):
        train_quality(small_network(), task, small_options(), tmp_path, name="a")
    train_quality(small_network(), task, small_options(), tmp_path, name="a", resume=True)
    assert (tmp_path / "model.safetensors").read_bytes() == first
    other = quality_task(data, head_factor=2.0)
    with pytest.raises(DataError, match="another task"):
        train_quality(small_network(), other, small_options(), tmp_path, name="a", resume=True)
    deeper = small_network(depths=(1, 2))
    with pytest.raises(DataError, match="another config"):
        train_quality(deeper, task, small_options(), tmp_path, name="a", resume=True)
    (tmp_path / "options.json").write_text("[]")
    with pytest.raises(DataError, match="not the record"):
        train_quality(small_network(), task, small_options(), tmp_path, name="a", resume=True)


def test_models_that_do_not_fit(task: QualityTask, tmp_path: Path) -> None:
    for model, message in (
        (small_network(num_outputs=2), "one output and this one 2"),
        (create_model("mambair-nano-x2"), "MambaIR gives no scores"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_quality(model, task, small_options(), tmp_path / "run", name="a")
    assert not (tmp_path / "run").exists()


def test_a_rating_model_is_turned_for_damage(tmp_path: Path) -> None:
    damage = rated(tmp_path / "rated", higher_is_better=False)
    start = starting_model(None, save_tiny(tmp_path))
    before = weights(start)
    options = small_options(steps=1, learning_rate=1e-12, weight_decay=0.0)
    train_quality(start, quality_task(damage), options, tmp_path / "run", name="a")
    for key, value in weights(start).items():
        wanted = -before[key] if "head" in key else before[key]
        assert torch.allclose(value, wanted, atol=1e-9)
    assert start.metadata is not None and start.metadata.name == "a"
    assert start.metadata.score is not None and not start.metadata.score.higher_is_better


def test_an_interrupted_run_writes_no_model(
    task: QualityTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    result = train_quality(
        small_network(),
        task,
        small_options(),
        tmp_path,
        name="a",
        report=lambda progress: os.kill(os.getpid(), signal.SIGTERM),
    )
    assert result.interrupted and not (tmp_path / "model.safetensors").exists()
    train_quality(small_network(), task, small_options(), tmp_path, name="a", resume=True)
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("draw", [split_by_content, split_by_image])
def test_hold_out(data: RatedDataset, draw: object) -> None:
    assert callable(draw)
    split = draw(data, 0)
    held = hold_out(data, split, 0.3, seed=1)
    assert held.test == split.test
    assert sorted(held.train + held.validation) == list(split.train)
    assert held.validation == hold_out(data, split, 0.3, seed=1).validation
    if draw is split_by_content:
        sides = [{data[i].content for i in part} for part in (held.train, held.validation)]
        assert not sides[0] & sides[1]
    with pytest.raises(DataError, match="already"):
        hold_out(data, held, 0.3, seed=1)
    with pytest.raises(ConfigError, match="share"):
        hold_out(data, split, 1.0, seed=1)


def test_kept_split(data: RatedDataset, tmp_path: Path) -> None:
    path = splits_path(tmp_path / "run", data, [data])

    def kept(seed: int, resume: bool, share: float = 0.0) -> Split:
        split = split_by_content(data, seed)
        wanted = hold_out(data, split, share, seed) if share else split
        return kept_split(path, data, lambda: wanted, resume=resume)

    first = kept(0, resume=True)
    assert kept(0, resume=True) == first == read_splits(path, data)[0]
    for seed, share, message in ((1, 0.0, "with seed 1"), (0, 0.4, "6 train, 4 validate")):
        with pytest.raises(DataError, match=f"divides 'ratings' otherwise .*{message}"):
            kept(seed, resume=True, share=share)
    second = kept(1, resume=False)
    assert second != first and read_splits(path, data) == (second,)


def test_the_folder_of_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    with pytest.raises(ZeroDivisionError), run_folder(folder, resume=False):
        assert folder.is_dir()
        raise ZeroDivisionError
    assert not folder.exists()
    with run_folder(folder, resume=False):
        (folder / "file").touch()
    assert (folder / "file").exists()
    folder = tmp_path / "mine"
    folder.mkdir()
    with run_folder(folder, resume=False):
        pass
    assert folder.exists()
    with (
        pytest.raises(DataError, match="Cannot make the folder"),
        run_folder(tmp_path / "a" / "run" / "file", resume=False),
    ):
        pass


def test_split_files_of_a_mix(data: RatedDataset, tmp_path: Path) -> None:
    from dataclasses import replace

    both: Sequence[RatedDataset] = [data, replace(data, name="../odd name")]
    assert [splits_path(tmp_path, each, both) for each in both] == [
        tmp_path / "splits-ratings.json",
        tmp_path / "splits-.._odd_name.json",
    ]


def test_fresh_models_repeat_and_start_at_the_mean() -> None:
    state = torch.get_rng_state()
    first, again, other = (small_network(seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(weights(first), weights(again)) and not equal(weights(first), weights(other))
    assert first(torch.randn(2, 3, 32, 32)).abs().max() == 0
    linear = weights(first)["layers.0.blocks.0.mlp.fc1.weight"]
    assert linear.std().item() == pytest.approx(linear.shape[1] ** -0.5, rel=0.25)


def test_start_from_weights(tmp_path: Path) -> None:
    path = save_tiny(tmp_path)
    model = starting_model(None, path, drop_path=0.1)
    assert equal(weights(model), weights(load(path))) and model.config.to_dict()["drop_path"] == 0.1
    with pytest.raises(CheckpointError, match="absent"):
        starting_model("qmamba-nano", tmp_path / "none.pth")
    with pytest.raises(ConfigError, match="Give the name"):
        starting_model(None)
    official = {k: v for k, v in load(path).state_dict().items() if "head" not in k}
    official["classifier.head.weight"] = torch.randn(10, 16)
    official["classifier.head.bias"] = torch.randn(10)
    torch.save({"model": official}, tmp_path / "official.pth")
    model = starting_model(None, tmp_path / "official.pth")
    head = weights(model)["classifier.head.weight"]
    assert head.shape == (1, 16) and not head.any()
    local = starting_model(
        None, tmp_path / "official.pth", windows=(2, 2, 2, 2), route_gate=True, seed=4
    )
    same = starting_model(
        None, tmp_path / "official.pth", windows=(2, 2, 2, 2), route_gate=True, seed=4
    )
    assert equal(weights(local), weights(same))


def test_devices() -> None:
    assert usable_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="cannot be used"):
        usable_device("nowhere")


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("qmamba-mini-biq2021", "qmamba-mini-biq2021"),
        ("someone/their-weights", "someone/their-weights"),
        ("/home/someone/secret/run/model.safetensors", "run/model.safetensors"),
        ("../secret/run/model.safetensors", "run/model.safetensors"),
        ("/model.safetensors", "model.safetensors"),
    ],
)
def test_a_card_does_not_tell_the_folders_of_the_machine(source: str, shown: str) -> None:
    assert shown_origin({"source": source}, "random weights") == shown
    assert shown_origin(None, "random weights") == "random weights"


def test_the_card_of_a_run_from_a_file(task: QualityTask, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train_quality(small_network(), task, small_options(), first, name="first")
    start = load(first / "model.safetensors")
    train_quality(start, task, small_options(), second, name="second")
    metadata = load(second / "model.safetensors").metadata
    assert metadata is not None
    protocol = metadata.training["protocol"]
    assert "from first/model.safetensors," in protocol and str(tmp_path) not in protocol
