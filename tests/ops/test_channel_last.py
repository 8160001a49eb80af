"""Passes over channel-last maps, in every variant built."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qmamba.ops.native import library
from qmamba.ops.native.maps import layer_norm, weighted_sum

pytestmark = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 16), (1, 7, 2, 37), (3, 4, 4, 60)])
def test_each_map_has_its_weights(shape: tuple[int, int, int, int]) -> None:
    x, z = torch.randn(shape), torch.randn(shape)
    x_weight, z_weight = torch.randn(shape[3]), torch.randn(shape[0], 1, 1, shape[3])
    kept = x.clone(), z.clone()
    y = weighted_sum(x, x_weight, z, z_weight)
    assert torch.allclose(y, x * x_weight + z * z_weight, atol=1e-6)
    assert torch.equal(x, kept[0]) and torch.equal(z, kept[1])


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (5, 16), (2, 3, 37, 32), (40, 60), (19, 771), (3, 9000)])
def test_layer_norm_is_that_of_torch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (3 * torch.randn(shape) + 5).to(dtype)
    weight, bias = torch.randn(shape[-1]), torch.randn(shape[-1])
    y = layer_norm(x, weight, bias, 1e-4)
    expected = F.layer_norm(x.double(), shape[-1:], weight.double(), bias.double(), 1e-4)
    assert y.dtype == dtype and y.shape == x.shape
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    assert torch.allclose(y.double(), expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(0, 50), channels=st.integers(1, 70), seed=st.integers(0, 99))
def test_the_norm_of_a_row_does_not_depend_on_the_others(
    rows: int, channels: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, channels, generator=random)
    weight, bias = torch.ones(channels), torch.zeros(channels)
    y = layer_norm(x, weight, bias, 1e-5)
    alone = [layer_norm(row[None], weight, bias, 1e-5) for row in x]
    assert torch.equal(y, torch.cat(alone) if alone else y)


def test_a_row_that_is_not_finite_stays_so_and_spoils_no_other() -> None:
    x = torch.randn(20, 24)
    x[3, 7] = float("nan")
    x[11, 2] = float("inf")
    y = layer_norm(x, torch.ones(24), torch.zeros(24), 1e-5)
    finite = torch.isfinite(y).all(1)
    assert finite.sum() == 18 and not finite[3] and not finite[11]
