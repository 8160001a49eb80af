"""A new family of networks takes one record and touches no other module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Size, Tensor, nn

from qmamba.assess import Scorer
from qmamba.checkpoints import describe, load, save_model
from qmamba.errors import CheckpointError
from qmamba.inference import prepare
from qmamba.models import (
    ARCHITECTURES,
    Architecture,
    FlopReport,
    ModelMetadata,
    NetworkConfig,
    RatingNetwork,
    ScoreScale,
    count_flops,
    count_parameters,
    create_model,
    list_models,
)
from qmamba.models.registry import name_of
from qmamba.models.state_dicts import Conversion, Refit
from qmamba.training.quality.run import require_fitting


@dataclass(frozen=True)
class ToyConfig(NetworkConfig):
    architecture: ClassVar[str] = "toy"
    width: int = 3
    num_outputs: int = 1
    drop_path: float = 0.0


class Toy(RatingNetwork):
    """The mean of each channel, mixed."""

    config: ToyConfig

    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__()
        self.config = config or ToyConfig()
        self.mix = nn.Conv2d(3, self.config.width, 1)
        self.head = nn.Linear(self.config.width, self.config.num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.forward_features(images))
        return outputs

    def forward_features(self, images: Tensor) -> Tensor:
        features: Tensor = self.mix(images).mean((2, 3))
        return features


def toy_flops(config: ToyConfig, height: int, width: int) -> FlopReport:
    return FlopReport(height, width, 3 * config.width * height * width, config.width, 0, 0, 0, True)


def convert(state: Mapping[str, Tensor]) -> Conversion:
    return Conversion("toy", {key.removeprefix("toy."): value for key, value in state.items()})


def infer(state: Mapping[str, Tensor]) -> ToyConfig:
    return ToyConfig(width=state["mix.weight"].shape[0])


def refit(
    state: Mapping[str, Tensor], shapes: Mapping[str, Size], given: Any, wanted: Any
) -> Refit:
    head = {key for key in shapes if key.startswith("head.")}
    return Refit(head & set(state), head)


TOY = Architecture(
    config=ToyConfig,
    build=Toy,
    models={"toy-small": ToyConfig(), "toy-wide": ToyConfig(width=8)},
    flops=toy_flops,
    recognizes=lambda state: "toy.mix.weight" in state,
    convert=convert,
    infer=infer,
    refit=refit,
    rates=True,
)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, TOY.name, TOY)


def test_it_is_built_listed_and_counted() -> None:
    assert list_models("toy-*") == ["toy-small", "toy-wide"]
    model = create_model("toy-small", width=8)
    assert isinstance(model, Toy) and name_of(model.config) == "toy-wide"
    assert count_parameters(model) == count_parameters(model.config) == 4 * 8 + 9
    assert count_flops(model, 4, 5).total == 3 * 8 * 20 + 8


def test_it_is_saved_loaded_and_scores(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, path = create_model("toy-wide"), tmp_path / "toy.safetensors"
    scale = ScoreScale("MOS", 0, 100, True, 50, 10)
    metadata = ModelMetadata("toy", score=scale, policy={"name": "native"})
    save_model(model, path, metadata=metadata, dtype=torch.float32)
    assert describe(path).architecture == "toy"
    loaded = load(path)
    images = torch.rand(2, 3, 6, 7)
    assert torch.equal(loaded(images), model(images))
    assert torch.equal(prepare(loaded)(images), model(images))
    assert 0 < Scorer(loaded)(torch.rand(3, 40, 40)).score < 100
    require_fitting(loaded, 32)


def test_a_foreign_checkpoint_starts_another_network(tmp_path: Path) -> None:
    model = Toy(ToyConfig(width=5))
    foreign = {f"toy.{key}": value for key, value in model.state_dict().items()}
    torch.save(foreign, tmp_path / "toy.pth")
    loaded = load(tmp_path / "toy.pth", num_outputs=2)
    assert isinstance(loaded, Toy) and loaded.config == ToyConfig(width=5, num_outputs=2)
    assert loaded.load_report is not None and loaded.load_report.layout == "toy"
    assert set(loaded.load_report.fresh) == {"head.weight", "head.bias"}
    with pytest.raises(CheckpointError, match="qmamba"):
        load(tmp_path / "toy.pth", name="qmamba-nano")
