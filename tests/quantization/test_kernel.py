"""DLS and RFA in the C++ kernel against the same in PyTorch operations."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from qmamba.ops.native import rounding as bindings
from qmamba.quantization import DLS, RFA, Operand, Quantizer
from tests.quantization.samples import KINDS, data

pytestmark = pytest.mark.skipif(not bindings.available(), reason="the kernel was not built")


def both(
    quantizer: Quantizer, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Tensor], list[Tensor]]:
    """Values, gradient of x, those of the parameters and the buffers, each way."""
    up = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    results = []
    for available in (True, False):
        one = copy.deepcopy(quantizer)
        with monkeypatch.context() as context:
            context.setattr(bindings, "available", lambda found=available: found)
            leaf = x.clone().requires_grad_()
            y = one(leaf)
            (y * up).sum().backward()
            qparams = one.choose_qparams(x)
            assert not available or torch.equal(qparams.dequantize(one.quantize(x)), y.detach())
        gradients = [p.grad for p in (leaf, *one.parameters()) if p.grad is not None]
        results.append([y.detach(), *gradients, *(buffer.float() for buffer in one.buffers())])
    return results[0], results[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [2, 8])
def test_rfa(kind: str, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    w = data(kind, 20, 31)
    quantizer = RFA(bits, Operand.weight())
    quantizer(w)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        quantizer.gaps.add_(0.4 * torch.randn(quantizer.gaps.shape, generator=generator))
    native, plain = both(quantizer, w, monkeypatch)
    assert torch.equal(native[0], plain[0]) and torch.equal(native[1], plain[1])
    for ours, theirs in zip(native[2:], plain[2:], strict=True):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * scale + 1e-6)


@pytest.mark.parametrize("kind", ["gauss", "positive", "heavy", "two values"])
@pytest.mark.parametrize("statistics", ["sample", "batch"])
@pytest.mark.parametrize("step", [0.4, 1.0, 9.0])
def test_dls(kind: str, statistics: str, step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x = data(kind, 3, 7, 1301)
    quantizer = DLS(4, Operand(copies=4), statistics=statistics)
    quantizer(x)
    with torch.no_grad():
        width = quantizer.step_weights[1].clone()
        quantizer.step_weights.mul_(step).add_(width * torch.tensor([0.05, 0.0, -0.02, 0.01]))
        quantizer.offset_weights.add_(width * torch.tensor([0.2, 0.1, 0.01, -0.02]))
    native, plain = both(quantizer, x, monkeypatch)
    # A value on the boundary of two codes may take either side.
    difference = (native[0] - plain[0]).abs().flatten().quantile(0.999)
    assert difference < 1e-5 * x.abs().max()
    for ours, theirs in zip(native[1:], plain[1:], strict=True):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=5e-3 * scale)


def test_frozen_statistics_follow_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    x = data("gauss", 2, 300)
    quantizer = DLS(4, statistics="frozen")
    quantizer(x)
    native, plain = both(quantizer, 3 * x, monkeypatch)
    assert not torch.equal(native[-1], quantizer.running)
    for ours, theirs in zip(native[-2:], plain[-2:], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_nan_weights_are_not_hidden() -> None:
    w = data("gauss", 10)
    quantizer = RFA(4, Operand.weight())
    quantizer(w)
    w[3] = float("nan")
    assert quantizer(w).isnan().tolist() == [i == 3 for i in range(10)]
