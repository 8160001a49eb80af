from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qmamba.datasets import RatedDataset
from qmamba.errors import ConfigError, DataError, TrainingError
from qmamba.training import QualityTask, TrainingOptions, TrainingProgress, train
from qmamba.training.stream import indices
from tests.training.samples import equal, quality_task, rated, small_network, small_options, weights


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RatedDataset:
    return rated(tmp_path_factory.mktemp("rated"))


@pytest.fixture(scope="module")
def task(data: RatedDataset) -> QualityTask:
    return quality_task(data, crop_size=16)


def trained(task: QualityTask, folder: Path, seed: int = 0, **options: object) -> dict[str, Tensor]:
    model = small_network(seed, drop_path=0.2)
    train(model, task, small_options(seed=seed, **options), folder)
    return weights(model)


def log_lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_is_a_function_of_its_seed(task: QualityTask, tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = trained(task, tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert equal(first, trained(task, tmp_path / "b"))
    assert not equal(first, trained(task, tmp_path / "c", seed=1))


def test_workers_change_nothing(task: QualityTask, tmp_path: Path) -> None:
    assert equal(trained(task, tmp_path / "a"), trained(task, tmp_path / "b", workers=2))


class Contrast(nn.Module):
    """Rates the contrast of a crop, which the noise of the images raises."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.std((1, 2, 3))[:, None])


def test_something_is_learnt(data: RatedDataset, tmp_path: Path) -> None:
    model = Contrast()
    options = small_options(steps=60, batch_size=8, learning_rate=0.1, schedule="constant")
    result = train(model, quality_task(data, validation=0), options, tmp_path)
    losses = [line["loss"] for line in log_lines(tmp_path)]
    assert sum(losses[-10:]) < 0.4 * sum(losses[:10])
    assert not result.interrupted and result.step == 60 and not model.training


def test_every_example_comes_once_an_epoch() -> None:
    drawn = [index for step in range(10) for index in indices(step, 3, 10, seed=4)]
    assert [epoch for epoch, _ in drawn] == [0] * 10 + [1] * 10 + [2] * 10
    for epoch in range(3):
        assert sorted(i for e, i in drawn if e == epoch) == list(range(10))
    assert drawn[:10] != [(0, i) for _, i in drawn[10:20]]


def test_frozen_parameters_stay(task: QualityTask, tmp_path: Path) -> None:
    model = small_network(dims=(8, 16, 16), depths=(1, 1, 1), windows=(1, 1, 1))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("layers.1", "classifier")))
    before = weights(model)
    train(model, task, small_options(ema_decay=0.5), tmp_path)
    moved = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved and all(name.startswith(("layers.1", "classifier")) for name in moved)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert not any(name.startswith("patch_embed") for name in checkpoint["weights"])


class Follower:
    """A task whose loss is linear in one weight, so that every step is known."""

    examples = 4
    metric = "height"

    def __init__(self) -> None:
        self.judged: list[float] = []

    def example(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"x": torch.ones(1)}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return -model(batch["x"]).mean()

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        value = next(model.parameters()).item()
        self.judged.append(value)
        return {"height": -abs(value - 0.24)}

    def learning_rate_factor(self, name: str) -> float:
        return 1.0


class One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


def plain(steps: int, **changes: object) -> TrainingOptions:
    """AdamW on a constant gradient moves by the learning rate each step."""
    return small_options(
        steps=steps, learning_rate=0.1, schedule="constant", weight_decay=0.0, **changes
    )


def test_moving_average(tmp_path: Path) -> None:
    task, model = Follower(), One()
    result = train(model, task, plain(3, ema_decay=0.2), tmp_path)
    average = 0.0
    for step, value in enumerate((0.1, 0.2, 0.3)):
        decay = min(0.2, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * value
    assert task.judged == [pytest.approx(average, rel=1e-5)]
    assert model.weight.item() == pytest.approx(average, rel=1e-5)
    assert result.figures == {"height": pytest.approx(-abs(average - 0.24), rel=1e-4)}


def test_keep_the_best(tmp_path: Path) -> None:
    model = One()
    result = train(model, Follower(), plain(6, evaluate_every=1, keep="best"), tmp_path)
    assert model.weight.item() == pytest.approx(0.2, rel=1e-5)
    assert result.figures["height"] == pytest.approx(-0.04, abs=1e-5)


def test_keep_the_last(tmp_path: Path) -> None:
    model = One()
    result = train(model, Follower(), plain(6, evaluate_every=4), tmp_path)
    assert model.weight.item() == pytest.approx(0.6, rel=1e-5)
    assert result.figures["height"] == pytest.approx(-0.36, rel=1e-4)


def test_reports(tmp_path: Path) -> None:
    seen: list[TrainingProgress] = []
    options = plain(4, evaluate_every=2, log_every=2)
    train(One(), Follower(), options, tmp_path, report=seen.append)
    assert [(each.step, each.figures is None) for each in seen] == [
        (2, True),
        (2, False),
        (4, True),
        (4, False),
    ]
    assert all(each.steps == 4 and each.seconds_left >= 0 for each in seen)
    assert seen[-1].seconds_left == 0
    # Means of the losses of two steps, before the weight moves in each: -(0 + 0.1) / 2.
    assert [line["loss"] for line in log_lines(tmp_path) if "loss" in line] == [
        pytest.approx(-0.05, abs=1e-6),
        pytest.approx(-0.25, abs=1e-6),
    ]


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    class Diverging(Follower):
        def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            value = super().loss(model, batch)
            return value if value.item() > -0.25 else value / 0

    model = One()
    with pytest.raises(TrainingError, match="step 4"):
        train(model, Diverging(), plain(9, checkpoint_every=1), tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 3


def test_a_used_folder(task: QualityTask, tmp_path: Path) -> None:
    first = trained(task, tmp_path)
    with pytest.raises(DataError, match="--resume"):
        trained(task, tmp_path)
    model = small_network(drop_path=0.2)
    result = train(model, task, small_options(), tmp_path, resume=True)
    assert equal(first, weights(model)) and result.step == 8
    with pytest.raises(DataError, match="learning_rate"):
        train(model, task, small_options(learning_rate=1e-4), tmp_path, resume=True)
    with pytest.raises(DataError, match="another model"):
        other = small_network(dims=(8, 8))
        train(other, task, small_options(), tmp_path, resume=True)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(DataError, match="cannot be read"):
        train(model, task, small_options(), tmp_path, resume=True)


def test_refused(task: QualityTask, data: RatedDataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trainable"):
        train(small_network().requires_grad_(False), task, small_options(), tmp_path / "a")
    without = quality_task(data, validation=0)
    with pytest.raises(ConfigError, match="validation"):
        train(small_network(), without, small_options(keep="best"), tmp_path / "b")
