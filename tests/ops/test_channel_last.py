"""Passes over channel-last maps, in every variant built."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qmamba.ops.native import library
from qmamba.ops.native.maps import ChannelAttentionWeights, attended_sum, layer_norm

pytestmark = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)


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


@pytest.mark.usefixtures("instruction_set")
@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 40),
    width=st.integers(1, 12),
    channels=st.integers(1, 70),
    hidden=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_channel_attention_weighs_the_second_map(
    batch: int, height: int, width: int, channels: int, hidden: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    x, z = (normal(batch, height, width, channels) for _ in range(2))
    x_weight = normal(channels)
    attention = ChannelAttentionWeights(
        normal(hidden, channels), normal(hidden), normal(channels, hidden), normal(channels)
    )
    squeeze, squeeze_bias, excite, excite_bias = (t.double() for t in attention)
    inner = F.relu(F.linear(z.double().mean((1, 2), keepdim=True), squeeze, squeeze_bias))
    weights = torch.sigmoid(F.linear(inner, excite, excite_bias))
    expected = x.double() * x_weight.double() + z.double() * weights
    y = attended_sum(x, x_weight, z, attention)
    assert torch.allclose(y.double(), expected, rtol=1e-5, atol=2e-5)
    alone = [attended_sum(a[None], x_weight, b[None], attention) for a, b in zip(x, z, strict=True)]
    assert torch.equal(y, torch.cat(alone))


def test_the_number_of_threads_changes_no_bit_of_an_attended_sum() -> None:
    x, z = torch.randn(2, 1, 67, 41, 36)
    attention = ChannelAttentionWeights(
        torch.randn(4, 36), torch.randn(4), torch.randn(36, 4), torch.randn(36)
    )
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(attended_sum(x, torch.ones(36), z, attention))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results)
