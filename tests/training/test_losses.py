from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.errors import ConfigError
from qmamba.evaluation.metrics.correlation import plcc
from qmamba.training.quality.losses import (
    LOSSES,
    Loss,
    fidelity_loss,
    parse_loss,
    plcc_loss,
    rank_loss,
)

COUPLED = ("plcc", "rank", "fidelity")


@pytest.fixture
def rows() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    prediction, target = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    return prediction, target, torch.tensor([0, 0, 1, 0, 1, 1, 2, 0, 1])


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name: str, rows: tuple[Tensor, Tensor, Tensor]) -> None:
    prediction, target, group = rows
    prediction.requires_grad_()
    loss = Loss(((1.0, name),))
    assert torch.autograd.gradcheck(lambda x: loss(x, target, group), (prediction,))


@pytest.mark.parametrize("name", LOSSES)
def test_finite_where_all_outputs_are_equal(name: str) -> None:
    """There the squared correlation is at its least, so that its gradient is zero."""
    prediction = torch.zeros(6, requires_grad=True)
    value = Loss(((1.0, name),))(prediction, torch.linspace(-40, 40, 6), torch.zeros(6).long())
    value.backward()
    assert prediction.grad is not None and bool(prediction.grad.isfinite().all())
    if name == "r2":
        assert not prediction.grad.any()
    else:
        assert float(prediction.grad[0]) > 0 > float(prediction.grad[-1])


def test_default_is_smooth_l1(rows: tuple[Tensor, Tensor, Tensor]) -> None:
    prediction, target, group = rows
    assert Loss()(prediction, target, group) == F.smooth_l1_loss(prediction, target, beta=1.0)


def test_plcc_loss_is_the_correlation(rows: tuple[Tensor, Tensor, Tensor]) -> None:
    prediction, target, _ = rows
    value = plcc_loss(prediction, target, torch.zeros(9).long())
    assert float(value) == pytest.approx((1 - plcc(prediction, target)) / 2, abs=1e-5)
    assert float(plcc_loss(3 * target + 1, target, torch.zeros(9).long())) < 1e-5


def test_groups_are_judged_apart(rows: tuple[Tensor, Tensor, Tensor]) -> None:
    prediction, target, _ = rows
    group = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1])
    own = [plcc(prediction[group == g], target[group == g]) for g in (0, 1)]
    value = plcc_loss(prediction, target, group)
    assert float(value) == pytest.approx((1 - (4 * own[0] + 5 * own[1]) / 9) / 2, abs=1e-5)
    # A constant offset of one data set changes nothing.
    shifted = prediction + 100.0 * group
    for loss in (plcc_loss, rank_loss, fidelity_loss):
        assert float(loss(shifted, target, group)) == pytest.approx(
            float(loss(prediction, target, group)), abs=1e-6
        )


def test_pairs_of_the_rank_loss() -> None:
    target = torch.tensor([0.0, 0.5, 3.0])
    one = torch.zeros(3).long()
    assert float(rank_loss(target, target, one)) == 0
    assert float(rank_loss(torch.zeros(3), target, one)) == pytest.approx((0.5 + 1 + 1) / 3)
    assert float(rank_loss(-target, target, one)) == pytest.approx((1.0 + 4.0 + 3.5) / 3)
    assert float(rank_loss(target, torch.ones(3), one)) == 0


def test_fidelity_is_least_at_the_targets() -> None:
    target = torch.tensor([-1.0, 0.2, 0.9])
    one = torch.zeros(3).long()
    assert float(fidelity_loss(target + 7, target, one)) == pytest.approx(0, abs=1e-6)
    assert float(fidelity_loss(2 * target, target, one)) > 1e-3
    assert float(fidelity_loss(-target, target, one)) > 0.1


def test_sums() -> None:
    loss = parse_loss(" smooth_l1 + 0.5*plcc +2*rank")
    assert loss.terms == ((1.0, "smooth_l1"), (0.5, "plcc"), (2.0, "rank"))
    assert parse_loss(str(loss)) == loss
    prediction, target, group = torch.randn(3, 8)
    group = group.long()
    parts = [Loss(((weight, name),))(prediction, target, group) for weight, name in loss.terms]
    assert torch.allclose(loss(prediction, target, group), torch.stack(parts).sum())


@pytest.mark.parametrize(
    "text", ["", "plcc+", "huber", "0*plcc", "-1*plcc", "plcc+plcc", "1.2.3*l1", "2 plcc"]
)
def test_no_sum(text: str) -> None:
    with pytest.raises(ConfigError, match="loss"):
        parse_loss(text)


@pytest.mark.parametrize("name", LOSSES)
def test_full_precision_inside_of_autocast(name: str) -> None:
    prediction, target = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    loss, group = Loss(((1.0, name),)), torch.zeros(16).long()
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(prediction, target, group)
    assert inside.dtype == torch.float32 and torch.equal(inside, loss(prediction, target, group))
