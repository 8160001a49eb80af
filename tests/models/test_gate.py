"""The route gate against its literal definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.nn import GatedMerge, RouteGate
from qmamba.nn.gate import mean_of_layer_norm


def norm_with_affine(channels: int, dtype: torch.dtype = torch.float64) -> nn.LayerNorm:
    norm = nn.LayerNorm(channels, dtype=dtype)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    return norm


def literal(maps: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(maps, norm.normalized_shape, norm.weight, norm.bias, norm.eps).mean(-2)


@pytest.mark.parametrize("shape", [(2, 4, 35, 24), (1, 4, 1, 8), (3, 7, 16)])
def test_mean_of_layer_norm_and_its_gradients(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm = norm_with_affine(shape[-1])
    maps = (torch.randn(shape, dtype=torch.float64) * 2 + 1).requires_grad_()
    inputs = (maps, norm.weight, norm.bias)
    expected, actual = literal(maps, norm), mean_of_layer_norm(maps, norm)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(expected)
    for wanted, got in zip(
        torch.autograd.grad(expected, inputs, weights),
        torch.autograd.grad(actual, inputs, weights),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1.0, 5.0])
def test_mean_of_layer_norm_in_float32(offset: float) -> None:
    torch.manual_seed(0)
    norm = norm_with_affine(192, torch.float32)
    maps = torch.randn(1, 4, 400, 192) + offset
    exact = literal(maps.double(), norm.double())
    actual = mean_of_layer_norm(maps, norm.float())
    torch.testing.assert_close(actual.double(), exact, rtol=0, atol=1e-5)


def test_constant_and_empty_channels_stay_finite() -> None:
    maps = torch.stack([torch.zeros(1, 9, 16), torch.full((1, 9, 16), 1e4)], dim=1).requires_grad_()
    pooled = mean_of_layer_norm(maps, nn.LayerNorm(16))
    pooled.sum().backward()
    assert torch.isfinite(pooled).all()
    assert maps.grad is not None
    assert torch.isfinite(maps.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = norm_with_affine(32, torch.float32)
    maps = (300 * torch.randn(1, 4, 50, 32)).to(dtype)
    pooled = mean_of_layer_norm(maps, norm)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, literal(maps.float(), norm), rtol=1e-4, atol=1e-5)


def test_gated_merge_is_localmambas_gate_on_every_route_and_a_sum() -> None:
    torch.manual_seed(0)
    merge = GatedMerge(16).double()
    with torch.no_grad():
        for parameter in merge.parameters():
            parameter.normal_()
    routes = torch.randn(2, 4, 15, 16, dtype=torch.float64, requires_grad=True)
    gate = merge.attn

    def gated(route: Tensor) -> Tensor:
        pooled = gate.norm(route).mean(1, keepdim=True)
        hidden = F.gelu(gate.global_reduce(pooled))
        return route * torch.sigmoid(gate.channel_select(hidden))

    expected = torch.stack([gated(routes[:, k]) for k in range(4)]).sum(0)
    actual = merge(routes)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    inputs = [routes, *merge.parameters()]
    for wanted, got in zip(
        torch.autograd.grad(expected.square().sum(), inputs),
        torch.autograd.grad(actual.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


def test_a_fresh_gate_is_close_to_one_half() -> None:
    torch.manual_seed(0)
    weights = RouteGate(64)(torch.randn(2, 4, 30, 64))
    assert weights.shape == (2, 4, 64)
    torch.testing.assert_close(weights, torch.full_like(weights, 0.5), rtol=0, atol=0.02)
