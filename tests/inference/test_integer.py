"""The public layer on integers, with and without the kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from qmamba.errors import ShapeError
from qmamba.inference.layers import quantize_weight
from qmamba.ops.native import library
from tests.inference import integer_rows
from tests.inference.integer_rows import IntegerLinear, QuantizedRows, quantize_rows


@pytest.fixture(params=["kernel", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        monkeypatch.setattr(integer_rows, "unavailable_reason", lambda: "not here")
    elif library.unavailable_reason() is not None:
        pytest.skip(str(library.unavailable_reason()))


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def test_rows_keep_their_extremes_and_zero() -> None:
    x = torch.tensor([[0.0, -1.0, 2.0], [0.0, 3.0, 1.0], [0.0, 0.0, 0.0]])
    rows = quantize_rows(x)
    assert rows.codes.dtype == torch.uint8
    torch.testing.assert_close(rows.dequantize(), x, rtol=0, atol=float(rows.scale.max()) / 2)
    torch.testing.assert_close(rows.dequantize()[:2].amax(1), torch.tensor([2.0, 3.0]))
    assert rows.dequantize()[2].tolist() == [0, 0, 0]


def test_a_weight_is_within_half_a_step() -> None:
    weight = randn(7, 30)
    weight[3] = 0
    codes, scale = quantize_weight(weight)
    assert codes.dtype == torch.int8 and codes.abs().max() == 127
    assert ((codes * scale[:, None] - weight).abs() <= 0.5001 * scale[:, None]).all()


@pytest.mark.parametrize("one_grid", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_it_is_the_linear_map_of_the_values(path: None, one_grid: bool, symmetric: bool) -> None:
    codes, scale = quantize_weight(randn(20, 33))
    scale = scale[0] if one_grid else scale
    offset = None if symmetric else 0.3 * randn(20)[: 1 if one_grid else 20].squeeze()
    bias = randn(20)
    rows = quantize_rows(randn(2, 5, 33))
    if one_grid:
        rows = QuantizedRows(rows.codes, torch.tensor(0.02), torch.tensor(-0.7))
    weight = codes * scale.view(-1, 1) - (0 if offset is None else offset.view(-1, 1))
    expected = F.linear(rows.dequantize(), weight, bias)
    layer = IntegerLinear(codes, scale, bias, offset=offset)
    residual = randn(2, 5, 20)
    torch.testing.assert_close(layer(rows), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        layer(rows, gelu=True, residual=residual), F.gelu(expected) + residual, rtol=1e-5, atol=2e-4
    )
    half = layer(rows, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=1e-2, atol=1e-2)


def test_wrong_codes_are_refused(path: None) -> None:
    with pytest.raises(ShapeError, match="must be int8"):
        IntegerLinear(torch.zeros(3, 4), torch.ones(3))
