"""Codes that a layer writes for its reader: those of the number that it would have written."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.ops.native import library
from qmamba.ops.native.depthwise import DepthwiseConvolution
from qmamba.ops.native.integer import IntegerCall, PackedCodes
from qmamba.ops.native.operands import CodeGrid, Constant, QParamsRule, quantize

pytestmark = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)


def codes_of(values: Tensor, grid: CodeGrid) -> Tensor:
    """The definition: quantize what is there, in float32."""
    steps = (values + grid.offset) / grid.scale
    return (steps.round().clamp(grid.first, grid.last) - grid.first).to(torch.uint8)


def layer(
    inputs: int, outputs: int, random: torch.Generator, **options: nn.LayerNorm
) -> IntegerCall:
    codes = torch.randint(-128, 128, (outputs, inputs), generator=random, dtype=torch.int8)
    scale, offset, bias = (torch.randn(outputs, generator=random) for _ in range(3))
    return IntegerCall(PackedCodes(codes, 0.02 * scale.abs(), 0.1 * offset, bias), **options)


def grid_of(values: Tensor, bits: int, *, signed: bool = True) -> CodeGrid:
    first = -(2 ** (bits - 1)) if signed else 0
    spread = max(float(values.std(correction=0)), 0.1)
    scale = torch.tensor(4 * spread / 2**bits).item()
    return CodeGrid(scale, torch.tensor(0.3 * spread).item(), first, first + 2**bits - 1)


@pytest.mark.usefixtures("instruction_set")
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 120),
    inputs=st.integers(1, 90),
    outputs=st.integers(1, 150),
    part=st.floats(0, 1),
    bits=st.sampled_from([2, 4, 8]),
    signed=st.booleans(),
    normalized=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_product_writes_the_codes_of_its_results(
    rows: int,
    inputs: int,
    outputs: int,
    part: float,
    bits: int,
    signed: bool,
    normalized: bool,
    seed: int,
) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=random)
    call = layer(inputs, outputs, random, **({"norm": nn.LayerNorm(inputs)} if normalized else {}))
    given = {"scale": torch.tensor(0.3), "offset": torch.tensor(1.7), "highest": 15}
    expected = call(x, **given)
    grid = grid_of(expected, bits, signed=signed)
    columns = round(part * outputs)
    codes = torch.full((rows, columns), 77, dtype=torch.uint8)
    rest = call(x, **given, codes=codes, code_grid=grid)
    assert torch.equal(codes, codes_of(expected[:, :columns], grid))
    assert torch.equal(rest, expected[:, columns:])


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("size", [(1, 1, 1), (70, 33, 45), (100, 96, 384)])
def test_gelu_before_codes_is_that_of_torch(size: tuple[int, int, int]) -> None:
    rows, inputs, outputs = size
    random = torch.Generator().manual_seed(0)
    call, x = layer(inputs, outputs, random), torch.randn(rows, inputs, generator=random)
    given = {"scale": torch.tensor(0.3), "offset": torch.tensor(1.7), "highest": 15}
    expected = F.gelu(call(x, **given))
    grid = grid_of(expected, 4)
    codes = torch.empty(rows, outputs, dtype=torch.uint8)
    call(x, **given, gelu=True, codes=codes, code_grid=grid)
    difference = (codes.int() - codes_of(expected, grid).int()).abs()
    # GELU is computed to 2e-7, so that a value between two codes may take the other one.
    assert difference.max() <= 1 and difference.float().mean() < 1e-3


@pytest.mark.usefixtures("instruction_set")
@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 12),
    channels=st.integers(1, 70),
    side=st.sampled_from([1, 3, 5]),
    dilation=st.integers(1, 2),
    bits=st.sampled_from([2, 4, 8]),
    activation=st.sampled_from([None, "silu", "gelu"]),
    seed=st.integers(0, 1000),
)
def test_a_depthwise_convolution_reads_and_writes_codes(
    height: int,
    width: int,
    channels: int,
    side: int,
    dilation: int,
    bits: int,
    activation: str | None,
    seed: int,
) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(2, height, width, channels, generator=random)
    taps = torch.randint(-8, 8, (channels, 1, side, side), generator=random, dtype=torch.int8)
    # A bound that cuts some values off, which codes can tell.
    rule = QParamsRule(bits, fixed=(3.0 / 2**bits, 0.2, -1.3, 1.1))
    bias = torch.randn(channels, generator=random)
    convolution = DepthwiseConvolution(
        Constant(taps, 0.1, 0.03), bias, rule, dilation=dilation, activation=activation
    )
    expected = convolution(x)
    read = quantize(x.flatten(1, 2), rule).codes.view(x.shape)
    assert torch.equal(codes_of(x, convolution.reads), read)
    assert torch.equal(convolution(read), expected)
    grid = grid_of(expected, bits)
    codes = torch.empty(x.shape, dtype=torch.uint8)
    assert torch.equal(convolution(read, codes=codes, code_grid=grid), expected)
    assert torch.equal(codes, codes_of(expected, grid))
    codes.zero_()
    alone = convolution(x, codes=codes, code_grid=grid, only_codes=True)
    assert alone is codes and torch.equal(codes, codes_of(expected, grid))


def test_codes_that_do_not_fit_are_refused() -> None:
    random, x = torch.Generator().manual_seed(0), torch.randn(5, 8)
    call, grid = layer(8, 6, random), CodeGrid(0.1, 0.0, -8, 7)
    given = {"scale": torch.tensor(0.3), "offset": torch.tensor(1.7)}
    with pytest.raises(ShapeError, match="at most 6 columns"):
        call(x, **given, codes=torch.empty(5, 7, dtype=torch.uint8), code_grid=grid)
    with pytest.raises(ShapeError, match="Codes need a grid"):
        call(x, **given, codes=torch.empty(5, 6, dtype=torch.uint8))
    with pytest.raises(ShapeError, match="codes must be a contiguous"):
        call(x, **given, codes=torch.empty(5, 6), code_grid=grid)
    taps = Constant(torch.zeros(3, 1, 3, 3, dtype=torch.int8), 0.1, 0.0)
    convolution = DepthwiseConvolution(taps, None, QParamsRule(4, fixed=(0.1, 0.0)))
    with pytest.raises(ShapeError, match="given together"):
        convolution(torch.zeros(1, 4, 4, 3), codes=torch.empty(1, 4, 4, 3, dtype=torch.uint8))
    with pytest.raises(ShapeError, match="must be a contiguous"):
        convolution(torch.zeros(1, 4, 4, 2, dtype=torch.uint8))
