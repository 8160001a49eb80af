"""Linear layers on integers against the same sums in float64."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.inference.layers import quantize_weight
from qmamba.ops.native import library
from qmamba.ops.native.integer import IntegerCall, PackedCodes
from qmamba.ops.native.structs import Struct
from tests.conftest import REPOSITORY
from tests.inference.integer_rows import quantize_rows

pytestmark = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)

SIZES = [(1, 1, 1), (3, 10, 5), (13, 99, 70), (50, 96, 33), (100, 129, 64)]


VARIANTS = [
    ("baseline", "wide"),
    ("avx2", "wide"),
    ("avx2", "dot"),
    ("avx512", "wide"),
    ("avx512", "dot"),
    ("avx512", "tile"),
    ("baseline", "emulated tile"),
]
"""Instruction sets, and what they multiply integers with."""


@pytest.fixture(params=VARIANTS, ids=lambda each: "-".join(each).replace(" ", "-"))
def lanes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Lanes of a variant that is used."""
    loaded = library.load_kernel()
    instructions, products = request.param
    lanes = library.LANES[instructions]
    if lanes > loaded.library.qmamba_lanes():
        pytest.skip("this processor has no such lanes")
    if products == "tile" and not loaded.library.qmamba_has_tiles():
        pytest.skip("this processor has no tiles")
    monkeypatch.setattr(loaded, "lanes", lanes)
    if products == "emulated tile":
        emulation = request.getfixturevalue("emulated_tiles")
        monkeypatch.setattr(loaded, "run_integer", emulation)
    else:
        monkeypatch.setattr(loaded, "products", library.PRODUCTS[products])
    return lanes


@pytest.fixture(scope="module")
def emulated_tiles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Struct], None]:
    """The kernel for tile registers, compiled with a plain C++ form of their instructions."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None or platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("needs a C++ compiler for x86-64")
    built = tmp_path_factory.mktemp("tiles") / "tiles.so"
    source = Path(__file__).with_name("tile_driver.cpp")
    command = [compiler, "-std=c++17", "-O2", "-ffp-contract=fast", f"-I{REPOSITORY / 'native'}"]
    subprocess.run([*command, "-shared", "-fPIC", str(source), "-o", str(built)], check=True)
    emulation = ctypes.CDLL(str(built))
    room = emulation.emulated_workspace
    room.restype = ctypes.c_int64

    def run(call: Struct) -> None:
        # Uninitialized room for rows that nobody reads must not matter.
        workspace = torch.full((room(ctypes.byref(call)),), 0xA5, dtype=torch.uint8)
        call.workspace = -(-workspace.data_ptr() // 64) * 64
        assert emulation.emulated_linear(ctypes.byref(call)) == 0

    return run


class Case:
    """A weight on integers, its values, and rows."""

    def __init__(self, rows: int, inputs: int, outputs: int, *, symmetric: bool = False) -> None:
        random = torch.Generator().manual_seed(rows + inputs)
        self.x = 2 * torch.randn(rows, inputs, generator=random) + 0.3
        self.bias = torch.randn(outputs, generator=random)
        codes, scale = quantize_weight(torch.randn(outputs, inputs, generator=random))
        offset = None if symmetric else 0.1 * torch.randn(outputs, generator=random)
        self.packed = PackedCodes(codes, scale, offset, self.bias)
        self.values = codes.double() * scale.double()[:, None]
        if offset is not None:
            self.values = self.values - offset.double()[:, None]

    def product(self, x: Tensor) -> Tensor:
        return F.linear(x.double(), self.values, self.bias.double())


def close(actual: Tensor, expected: Tensor, absolute: float = 1e-6) -> None:
    tolerance = 2e-6 * float(expected.abs().max()) + absolute
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_products_of_given_codes_are_exact(
    lanes: int, size: tuple[int, int, int], symmetric: bool
) -> None:
    case = Case(*size, symmetric=symmetric)
    rows = quantize_rows(case.x)
    layer = IntegerCall(case.packed)
    close(layer(rows.codes, scale=rows.scale, offset=rows.offset), case.product(rows.dequantize()))
    scale, offset = torch.tensor(0.03), torch.tensor(1.7)
    expected = case.product(rows.codes.double() * 0.03 - 1.7)
    close(layer(rows.codes, scale=scale, offset=offset), expected, 2e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_quantized_as_quantize_rows_does(
    lanes: int, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    case = Case(*size)
    x = case.x.to(dtype)
    identity = IntegerCall(
        PackedCodes(torch.eye(x.shape[1]).to(torch.int8), torch.tensor(1.0), None, None)
    )
    # A tie may be rounded to either side, by one step.
    difference = identity(x) - quantize_rows(x).dequantize()
    step = quantize_rows(x).scale.max()
    assert difference.abs().max() < 1.01 * step
    assert (difference.abs() > 0.5 * step).float().mean() < 0.01


@pytest.mark.parametrize("highest", [255, 15])
@pytest.mark.parametrize("one_grid", [True, False])
def test_rows_on_given_grids(lanes: int, highest: int, one_grid: bool) -> None:
    case = Case(21, 40, 9)
    scale, offset = torch.tensor(0.11), torch.tensor(1.3)
    if not one_grid:
        scale, offset = 0.11 + 0.01 * torch.arange(21.0), 1.3 + 0.1 * torch.arange(21.0)
    rows = [grid.view(-1, 1) for grid in (scale, offset)]
    codes = torch.round((case.x + rows[1]) / rows[0]).clamp(0, highest)
    actual = IntegerCall(case.packed)(case.x, scale=scale, offset=offset, highest=highest)
    close(actual, case.product(codes.double() * rows[0].double() - rows[1].double()), 2e-5)


def test_patches_on_a_given_grid_have_code_zero_outside(lanes: int) -> None:
    x = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    codes = torch.round((x + 2) / 0.1).clamp(0, 15)
    ones = PackedCodes(torch.ones(1, 54).to(torch.int8), torch.tensor(1.0), None, None)
    scale, offset = torch.tensor(0.1), torch.tensor(2.0)
    actual = IntegerCall(ones, side=3)(x, scale=scale, offset=offset, highest=15)
    sums = F.conv2d(codes.permute(0, 3, 1, 2), torch.ones(1, 6, 3, 3), padding=1)[0, 0]
    close(actual[0, :, :, 0], 0.1 * sums - 54 * 2.0, 2e-5)
    given = IntegerCall(ones, side=3)(codes.to(torch.uint8), scale=scale, offset=offset)
    assert torch.equal(given, actual)


def test_norm_gelu_second_layer_and_residual_are_fused(lanes: int) -> None:
    first, second = Case(37, 40, 72), Case(37, 72, 40, symmetric=True)
    norm = nn.LayerNorm(40)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    call = IntegerCall(first.packed, second.packed, norm=norm)
    with torch.no_grad():
        hidden = F.gelu(first.product(quantize_rows(norm(first.x)).dequantize()))
        rows = quantize_rows(hidden)
        expected = second.product(rows.dequantize()) + first.x
    actual = call(first.x, gelu=True, residual=first.x)
    # A value next to a rounding boundary may get either code in the row before.
    assert (actual - expected).abs().max() < 3e-2 * (expected - first.x).abs().max()
    assert (actual - expected).abs().median() < 1e-3
    factors = torch.randn(40)
    scaled = call(first.x, gelu=True, residual=first.x, residual_scale=factors)
    torch.testing.assert_close(scaled, actual + first.x * (factors - 1), rtol=1e-5, atol=1e-5)
    half = call(first.x, gelu=True, residual=first.x.bfloat16(), dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), actual, rtol=2e-2, atol=5e-2)


def test_gelu_is_within_its_stated_error(lanes: int) -> None:
    x = torch.linspace(-12, 12, 4001).unsqueeze(1)
    codes = torch.full((4001, 1), 1, dtype=torch.uint8)
    layer = IntegerCall(PackedCodes(torch.ones(1, 1).to(torch.int8), torch.tensor(1.0), None, None))
    y = layer(codes, scale=x[:, 0], offset=torch.zeros(4001), gelu=True)
    assert (y - F.gelu(x.double())).abs().max() < 5e-5


@pytest.mark.parametrize(("side", "stride"), [(3, 2), (3, 1), (1, 1), (5, 3)])
@pytest.mark.parametrize("size", [(1, 1), (7, 6), (12, 9)])
def test_patches_make_a_convolution(
    lanes: int, side: int, stride: int, size: tuple[int, int]
) -> None:
    x = torch.randn(2, *size, 6, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(10, 6, side, side, generator=torch.Generator().manual_seed(1))
    codes, scale = quantize_weight(weight.permute(0, 2, 3, 1).flatten(1))
    layer = IntegerCall(PackedCodes(codes, scale, None, None), side=side, stride=stride)
    values = (codes.float() * scale[:, None]).view(10, side, side, 6).permute(0, 3, 1, 2)
    expected = F.conv2d(x.permute(0, 3, 1, 2), values, None, stride, side // 2)
    actual = layer(x).permute(0, 3, 1, 2)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() < 2e-2 * expected.abs().max()
    torch.testing.assert_close(
        layer(x.bfloat16()).permute(0, 3, 1, 2), actual, rtol=0, atol=0.03 * float(actual.max())
    )


def test_a_row_does_not_depend_on_its_company_or_the_threads(lanes: int) -> None:
    case, second = Case(301, 96, 130), Case(301, 130, 96)
    call = IntegerCall(case.packed, second.packed)
    together = call(case.x, gelu=True)
    alone = torch.cat([call(part, gelu=True) for part in case.x.split(37)])
    assert torch.equal(together, alone)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(call(case.x, gelu=True), together)
    finally:
        torch.set_num_threads(threads)


def test_the_extremes_of_the_codes_do_not_saturate(lanes: int) -> None:
    codes = torch.full((2, 4096), 127, dtype=torch.int8)
    codes[1] = -128
    layer = IntegerCall(PackedCodes(codes, torch.tensor(1.0), None, None))
    x = torch.full((5, 4096), 255, dtype=torch.uint8)
    y = layer(x, scale=torch.tensor(1.0), offset=torch.tensor(0.0))
    assert y[0].tolist() == [127 * 255 * 4096, -128 * 255 * 4096]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_shows_and_harms_no_other(lanes: int, bad: float) -> None:
    case = Case(20, 33, 8)
    call = IntegerCall(case.packed)
    expected = call(case.x)
    case.x[7, 32] = bad
    actual = call(case.x)
    others = [row for row in range(20) if row != 7]
    assert torch.equal(actual[others], expected[others])
    assert not torch.isfinite(actual[7]).any()


def test_rows_of_zeros_and_of_tiny_numbers(lanes: int) -> None:
    case = Case(4, 16, 8)
    x = torch.tensor([0.0, 1e-30, -1e-42, 1e35]).unsqueeze(1).expand(4, 16)
    actual = IntegerCall(case.packed)(x)
    close(actual[:3], case.product(x)[:3])
    torch.testing.assert_close(actual[3].double(), case.product(x)[3], rtol=1e-3, atol=1e31)


def test_no_rows() -> None:
    case = Case(1, 16, 8)
    assert IntegerCall(case.packed)(torch.empty(2, 0, 16)).shape == (2, 0, 8)


def test_wrong_weights_are_refused() -> None:
    for codes in (torch.zeros(3, 4), torch.zeros(3).to(torch.int8)):
        with pytest.raises(ShapeError, match="must be int8"):
            PackedCodes(codes, torch.tensor(1.0), None, None)
