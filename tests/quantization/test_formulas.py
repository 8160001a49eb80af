"""Every quantizer against its formula, values and all gradients in double precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from qmamba.quantization import (
    BITS,
    DLS,
    LSQ,
    PAMS,
    RFA,
    DoReFa,
    LSQPlus,
    MinMax,
    Operand,
    Quantizer,
    QuantSR,
    Static,
)
from tests.quantization import twins
from tests.quantization.samples import data


def gradients(
    quantize: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[Tensor]
) -> list[Tensor]:
    x = x.clone().requires_grad_()
    up = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    y = quantize(x)
    return [y, *torch.autograd.grad((y * up).sum(), [x, *parameters], allow_unused=True)]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", [LSQ, LSQPlus, Static, PAMS, MinMax, DoReFa])
def test_learned_steps_are_the_formula(kind: type[Quantizer], bits: int) -> None:
    x = data("gauss", 4, 50).double()
    quantizer: Any = kind(bits, Operand()).double()
    quantizer(x)
    beta = quantizer.beta
    with torch.no_grad():
        quantizer.alpha.mul_(0.7)
        if beta is not None:
            beta.add_(0.1)
    learned = [p for p in quantizer.parameters() if p.requires_grad]
    ours = gradients(quantizer, x, learned)
    if kind is PAMS:

        def clipped(x: Tensor) -> Tensor:
            alpha = quantizer.alpha.abs()
            inside = torch.minimum(torch.maximum(x, -alpha), alpha)
            step = alpha / quantizer.high
            return twins.straight_through(inside, (inside / step).round() * step)

        assert_same(ours, gradients(clipped, x, learned))
        return
    codes = quantizer.code_range()

    def formula(x: Tensor) -> Tensor:
        offset = torch.zeros(1).double() if beta is None else beta
        return twins.learned_step(x, quantizer.alpha, offset, *codes)

    assert_same(ours, gradients(formula, x, learned))


@pytest.mark.parametrize("bits", [2, 4])
def test_quantsr_is_the_formula(bits: int) -> None:
    x = data("gauss", 4, 50).double()
    quantizer: Any = QuantSR(bits).double()
    quantizer(x)
    parameters: list[Tensor] = [quantizer.alpha, quantizer.beta]
    low, high = quantizer.code_range()
    twin = gradients(
        lambda x: twins.tanh_step(x, quantizer.alpha, quantizer.beta, low, high), x, parameters
    )
    assert_same(gradients(quantizer, x, parameters), twin)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rfa_is_the_formula_with_all_gradients(bits: int) -> None:
    w = data("gauss", 8, 9).double()
    quantizer: Any = RFA(bits).double()
    quantizer(w)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        for parameter in (quantizer.gaps, quantizer.first):
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
        quantizer.beta.add_(0.05)
    parameters: list[Tensor] = [quantizer.alpha, quantizer.beta, quantizer.first, quantizer.gaps]
    ours = gradients(quantizer, w, parameters)

    def formula(w: Tensor) -> Tensor:
        return twins.thresholds(
            w, quantizer.alpha, quantizer.beta, quantizer.points(), quantizer.low
        )

    assert_same(ours, gradients(formula, w, parameters))
    assert all(bool(gradient.abs().sum() > 0) for gradient in ours[2:])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["gauss", "positive", "heavy"])
@pytest.mark.parametrize("statistics", ["sample", "batch"])
def test_dls_is_the_formula_with_all_gradients(statistics: str, kind: str, bits: int) -> None:
    x = data(kind, 3, 4, 11).double()
    copies = 4 if statistics == "batch" else 1
    quantizer: Any = DLS(bits, Operand(copies=copies), statistics=statistics).double()
    quantizer(x)
    with torch.no_grad():
        # Off the start, all eight weights matter.
        step = quantizer.step_weights[1].clone()
        quantizer.step_weights.mul_(0.35).add_(step * torch.tensor([0.05, 0.0, -0.02, 0.01]))
        quantizer.offset_weights.add_(step * torch.tensor([0.2, 0.1, 0.01, -0.02]))
    parameters: list[Tensor] = [quantizer.step_weights, quantizer.offset_weights]

    def formula(x: Tensor) -> Tensor:
        rows = x if statistics == "sample" else x[None]
        return torch.stack(
            [
                twins.dynamic(row, parameters[0], parameters[1], bits, x.numel(), copies)
                for row in rows
            ]
        ).view(x.shape)

    assert_same(gradients(quantizer, x, parameters), gradients(formula, x, parameters))


def test_dls_shares_the_gradient_of_equal_extremes() -> None:
    x = torch.tensor([[0.0, 0.0, 0.3, 0.5, 1.0, 1.0, 1.0, 0.7]]).double()
    quantizer: Any = DLS(2).double()
    quantizer(x)
    with torch.no_grad():
        quantizer.step_weights.mul_(0.5)
        quantizer.offset_weights.add_(0.1)
    parameters: list[Tensor] = [quantizer.step_weights, quantizer.offset_weights]
    twin = gradients(
        lambda x: twins.dynamic(x, parameters[0], parameters[1], 2, x.numel()), x, parameters
    )
    assert_same(gradients(quantizer, x, parameters), twin)
