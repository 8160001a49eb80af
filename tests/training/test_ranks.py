"""Two processes over gloo against one: the same batches, losses and weights."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from qmamba.errors import ConfigError
from qmamba.training import QualityTask, parse_loss, train
from qmamba.training.distributed import gather_rows, process_group, rank
from tests.training.processes import finish, needs_fork, start_ranks
from tests.training.samples import quality_task, rated, small_network, small_options, weights

# With coupled losses alone, the gradient of the last bias is rounding noise, which AdamW enlarges.
LOSSES = ("smooth_l1", "smooth_l1+plcc+rank", "smooth_l1+fidelity")
OPTIONS = small_options(steps=4, batch_size=6, learning_rate=1e-3)

pytestmark = needs_fork


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, QualityTask]:
    data = rated(tmp_path_factory.mktemp("rated"))
    return {loss: quality_task(data, loss=parse_loss(loss), crop_size=16) for loss in LOSSES}


def run_all(tasks: dict[str, QualityTask], folder: Path) -> None:
    with process_group("cpu"):
        for loss, task in tasks.items():
            model = small_network()
            result = train(model, task, OPTIONS, folder / loss)
            torch.save(weights(model), folder / f"{loss}-{rank()}.pt")
            if rank() == 0:
                (folder / f"{loss}.json").write_text(json.dumps(result.figures))


def test_two_ranks_are_one(tasks: dict[str, QualityTask], tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    assert finish(start_ranks(2, run_all, tasks, tmp_path / "two")) == [0, 0]
    start_weights = weights(small_network())
    for loss, task in tasks.items():
        model = small_network()
        figures = train(model, task, OPTIONS, tmp_path / "one" / loss).figures
        ranks = [
            torch.load(tmp_path / "two" / f"{loss}-{number}.pt", weights_only=True)
            for number in (0, 1)
        ]
        moved = 0.0
        for name, value in weights(model).items():
            assert torch.equal(ranks[0][name], ranks[1][name])
            assert torch.allclose(ranks[0][name], value, atol=2e-5, rtol=1e-4), (loss, name)
            moved = max(moved, float((value - start_weights[name]).abs().max()))
        assert moved > 1e-3
        told = json.loads((tmp_path / "two" / f"{loss}.json").read_text())
        assert told == pytest.approx(figures, abs=1e-3)
        for ours, theirs in zip(
            losses(tmp_path / "two" / loss), losses(tmp_path / "one" / loss), strict=True
        ):
            assert ours == pytest.approx(theirs, rel=1e-3)


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def gather(folder: Path) -> None:
    with process_group("cpu"):
        rows = torch.tensor([[1.0 + rank()], [3.0 + rank()]], requires_grad=True)
        whole = gather_rows(rows)
        (whole.flatten() * torch.tensor([1.0, 10.0, 100.0, 1000.0])).sum().backward()
        torch.save((whole.detach(), rows.grad), folder / f"{rank()}.pt")


def test_rows_of_all_ranks(tmp_path: Path) -> None:
    assert finish(start_ranks(2, gather, tmp_path)) == [0, 0]
    for number, gradient in ((0, [1.0, 100.0]), (1, [10.0, 1000.0])):
        whole, grad = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        assert whole.flatten().tolist() == [1, 2, 3, 4]
        # Every rank has the same loss, so the sum over two ranks is twice the gradient.
        assert grad.flatten().tolist() == [2 * value for value in gradient]


def odd_batch(tasks: dict[str, QualityTask], folder: Path) -> None:
    with process_group("cpu"), pytest.raises(ConfigError, match="cannot be shared by 2"):
        train(small_network(), tasks["smooth_l1"], small_options(batch_size=5), folder)


def test_a_batch_that_does_not_divide(tasks: dict[str, QualityTask], tmp_path: Path) -> None:
    assert finish(start_ranks(2, odd_batch, tasks, tmp_path)) == [0, 0]


def strict(tasks: dict[str, QualityTask], folder: Path) -> None:
    warnings.simplefilter("error")
    with process_group("cpu"):
        train(small_network(), tasks["smooth_l1"], small_options(steps=2), folder)


def test_a_healthy_run_warns_of_nothing(tasks: dict[str, QualityTask], tmp_path: Path) -> None:
    assert finish(start_ranks(2, strict, tasks, tmp_path)) == [0, 0]


def frozen(tasks: dict[str, QualityTask], folder: Path) -> None:
    with process_group("cpu"):
        model: nn.Module = small_network()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("classifier"))
        train(model, tasks["smooth_l1"], small_options(ema_decay=0.9, steps=3), folder)
        torch.save(weights(model), folder / f"{rank()}.pt")


def test_frozen_parameters_stay(tasks: dict[str, QualityTask], tmp_path: Path) -> None:
    assert finish(start_ranks(2, frozen, tasks, tmp_path)) == [0, 0]
    found = [torch.load(tmp_path / f"{number}.pt", weights_only=True) for number in (0, 1)]
    for name, value in weights(small_network()).items():
        assert torch.equal(found[0][name], found[1][name])
        assert torch.equal(found[0][name], value) is not name.startswith("classifier")
