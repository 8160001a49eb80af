"""The scan of quantized operands, and how they get onto their grids, in every variant built."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.ops import scan_routes, ss2d_given_delta
from qmamba.ops.native import library
from qmamba.ops.native.operands import (
    Constant,
    QParamsRule,
    choose_qparams,
    fake_quantize_,
    quantize,
)
from qmamba.ops.native.quantized_scan import SHORTEST_ROUTE, QuantizedScan, ScanRules
from qmamba.ops.quantized.table_scan import table_scan_naive

needs_kernel = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)


class Case:
    """One scan; all its operands follow the image, or all have fixed grids."""

    def __init__(
        self,
        batch: int,
        side: tuple[int, int],
        channels: int,
        states: int,
        bits: int,
        window: int = 1,
        *,
        fixed: bool = False,
    ) -> None:
        random = torch.Generator().manual_seed(channels + 100 * states + bits)
        self.pixels, self.rank, self.bits = side[0] * side[1], 3, bits

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random)

        def codes(*shape: int) -> Tensor:
            low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
            return torch.randint(low, high, shape, generator=random, dtype=torch.int8)

        self.x = normal(batch, self.pixels, channels)
        self.projected = normal(batch, self.pixels, 4, self.rank + 2 * states)
        self.routes = scan_routes(*side, window)
        middle = 2.0 ** (bits - 1) + 0.5
        self.A = Constant(codes(4, channels, states), 0.1, middle * 0.1, highest=-0.07)
        self.D = Constant(codes(4, channels), 0.2, -0.3, lowest=-0.1)
        self.dt_bias = Constant(codes(4, channels), 0.3, 1.0)
        weight = codes(4, channels, self.rank)
        padded = F.pad(weight.transpose(1, 2), (0, -channels % 16))
        self.dt_weight = Constant(weight, 0.1, 0.03)
        self.transposed = self.dt_weight.arranged(padded)
        spread = 0.9 / 2 ** (bits - 2)
        dls = torch.tensor([0.01, spread, 0.01, 0.0, -0.9, -0.1, 0.02, 0.0])
        grid = (4 / 2**bits, -0.1, -1.7, 1.9)
        low = QParamsRule(bits, fixed=(5 / 2**bits, 0.05))
        others = [
            QParamsRule(bits, fixed=grid)
            if fixed
            else QParamsRule(bits, weights=dls, copies=copies)
            for copies in (4, 1, 1, 1)
        ]
        self.rules = ScanRules(low, *others)

    def scan(self, **options: Any) -> QuantizedScan:
        return QuantizedScan(self.rules, self.transposed, self.dt_bias, self.A, self.D, **options)

    def run(self, *, gate: Tensor | None = None, **options: Any) -> Tensor:
        x, projected = self.x.clone(), self.projected.clone()
        return self.scan(**options)(x, projected, self.routes, gate=gate).y

    def naive(self) -> Tensor:
        """One image after the other, on operands that lie on the grids which the kernel finds."""
        projected = self.projected.clone()
        grids = self.scan().fake_quantize_(self.x.clone(), projected)
        projected[..., self.rank :] = self.projected[..., self.rank :]
        return torch.cat([self._naive(i, projected, grids) for i in range(len(self.x))])

    def _naive(self, image: int, projected: Tensor, grids: tuple[Tensor, ...]) -> Tensor:
        def rule(which: int) -> QParamsRule:
            return QParamsRule(self.bits, fixed=tuple(grids[which][image].tolist()))

        numbers = projected[image : image + 1].clone()
        x = self.x[image : image + 1].clone()
        states = self.A.codes.shape[2]
        fake_quantize_(x, rule(0))
        rows = numbers.flatten(1, 2)
        fake_quantize_(rows[..., self.rank : self.rank + states], rule(2))
        fake_quantize_(rows[..., self.rank + states :], rule(3))
        steps = self.steps(numbers)
        fake_quantize_(steps.flatten(1, 2), rule(1))
        levels = self.levels(grids[1][image : image + 1])
        codes = (steps[..., None] - levels[0]).abs().argmin(-1)
        return table_scan_naive(
            x.double(),
            codes,
            levels.double(),
            numbers[..., self.rank :].double(),
            self.routes,
            self.dt_bias.dequantize().double(),
            self.A.dequantize().double(),
            self.D.dequantize().double(),
        )

    def steps(self, projected: Tensor) -> Tensor:
        """Float32 ``(batch, routes, pixels, channels)`` of low-rank ones, as the kernel adds up."""
        low, weight = projected[..., : self.rank].transpose(1, 2), self.dt_weight.dequantize()
        terms = low[..., None, :].double() * weight[None, :, None].double()
        return terms.sum(-1).float()

    def levels(self, grids: Tensor) -> Tensor:
        """``(batch, count)``: the levels of the time steps."""
        codes = torch.arange(2**self.bits) - 2 ** (self.bits - 1)
        scale, offset, low, high = grids.T[..., None]
        return torch.clamp(codes * scale - offset, low, high)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    error = (actual.double() - expected.double()).abs().max() / expected.abs().max()
    assert error < tolerance, float(error)


@needs_kernel
@pytest.mark.parametrize(
    ("batch", "side", "channels", "states", "bits", "window", "tables"),
    [
        (1, (7, 9), 72, 10, 4, 1, True),
        (1, (7, 9), 72, 10, 4, 1, False),
        (2, (5, 4), 40, 16, 4, 1, True),
        (2, (5, 4), 40, 16, 8, 1, False),
        (1, (6, 7), 17, 1, 3, 4, True),
        (1, (6, 7), 17, 1, 8, 4, False),
        (2, (4, 4), 5, 20, 2, 1, True),
        (2, (4, 4), 5, 20, 2, 1, False),
        (1, (3, 11), 24, 7, 2, 2, True),
        (1, (3, 11), 24, 4, 4, 2, False),
        (1, (1, 1), 16, 32, 3, 1, True),
        (1, (1, 1), 16, 40, 3, 1, False),
        (1, (9, 15), 16, 40, 3, 1, True),
        (1, (13, 11), 33, 1, 4, 5, True),
        (2, (9, 9), 31, 4, 1, 1, True),
    ],
)
def test_the_kernel_equals_the_definition(
    instruction_set: str,
    batch: int,
    side: tuple[int, int],
    channels: int,
    states: int,
    bits: int,
    window: int,
    tables: bool,
) -> None:
    case = Case(batch, side, channels, states, bits, window)
    close(case.run(tables=tables), case.naive())


@needs_kernel
@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    channels=st.integers(1, 50),
    states=st.integers(1, 18),
    bits=st.sampled_from([2, 3, 4]),
    window=st.sampled_from([1, 2, 3]),
    tables=st.booleans(),
)
def test_any_size_equals_the_definition(
    height: int, width: int, channels: int, states: int, bits: int, window: int, tables: bool
) -> None:
    case = Case(1, (height, width), channels, states, bits, window)
    close(case.run(tables=tables), case.naive())


@needs_kernel
@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    channels=st.integers(1, 50),
    states=st.integers(1, 18),
    bits=st.integers(1, 4),
    window=st.sampled_from([1, 2, 3]),
)
def test_tables_hold_what_would_be_computed(
    height: int, width: int, channels: int, states: int, bits: int, window: int
) -> None:
    case = Case(1, (height, width), channels, states, bits, window)
    computed = case.run(tables=False)
    close(case.run(tables=True), computed, 1e-6)
    chosen = case.run()
    long = case.routes.shape[1] >= SHORTEST_ROUTE
    assert torch.equal(chosen, case.run(tables=long))


@needs_kernel
def test_tables_are_refused_where_delta_has_too_many_codes() -> None:
    with pytest.raises(ShapeError, match="at most 4 bits, got 8 bits"):
        Case(1, (4, 4), 8, 2, 8).scan(tables=True)


def test_the_definition_is_the_scan_with_time_steps_on_a_grid() -> None:
    random = torch.Generator().manual_seed(0)
    routes = scan_routes(5, 6, 4)
    codes = torch.randint(0, 16, (2, 4, 30, 8), generator=random)
    levels = torch.linspace(-3, 2, 16).repeat(2, 1).double() * torch.tensor([[1.0], [0.7]])
    steps = levels[torch.arange(2)[:, None, None, None], codes]
    x, projected, bias, skip = (
        torch.randn(*shape, generator=random, dtype=torch.float64)
        for shape in ((2, 30, 8), (2, 30, 4, 6), (4, 8), (4, 8))
    )
    A = -torch.rand(4, 8, 3, generator=random, dtype=torch.float64)
    actual = table_scan_naive(x, codes, levels, projected, routes, bias, A, skip)
    expected = ss2d_given_delta(x, steps, projected, routes, bias, A, skip, backend="naive")
    close(actual, expected, 1e-12)


@needs_kernel
@pytest.mark.parametrize(("channels", "states"), [(8, 10), (37, 10), (33, 2)])
def test_norm_and_gate_follow_the_scan(instruction_set: str, channels: int, states: int) -> None:
    case = Case(2, (4, 5), channels, states, 4, 1)
    norm = nn.LayerNorm(channels, eps=1e-4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    # A gate is one half of a projection, so its rows are longer than it is.
    gate = torch.randn(2, 20, 2 * channels)[..., channels:]
    expected = F.layer_norm(
        case.naive().float(), (channels,), norm.weight, norm.bias, norm.eps
    ) * F.silu(gate)
    close(case.run(norm=norm, gate=gate), expected.detach(), 1e-4)


@needs_kernel
@pytest.mark.parametrize("tables", [True, False])
def test_threads_and_batch_mates_change_no_bit(tables: bool) -> None:
    case = Case(2, (9, 7), 72, 10, 4, 1)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(case.run(tables=tables))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results)
    case.x, case.projected = case.x[1:].contiguous(), case.projected[1:].contiguous()
    assert torch.equal(case.run(tables=tables)[0], results[0][1])


@needs_kernel
@pytest.mark.parametrize("tables", [True, False])
def test_fixed_grids_equal_the_definition(instruction_set: str, tables: bool) -> None:
    case = Case(2, (6, 5), 40, 10, 4, fixed=True)
    close(case.run(tables=tables), case.naive())


@needs_kernel
@pytest.mark.parametrize(
    ("channels", "states", "bits"), [(72, 3, 4), (19, 3, 2), (33, 1, 3), (5, 20, 8)]
)
def test_all_operands_of_a_scan_are_put_on_their_grids(
    instruction_set: str, channels: int, states: int, bits: int
) -> None:
    case = Case(2, (6, 8), channels, states, bits)
    maps, projected = case.x.clone(), case.projected.clone()
    x, steps, B, C = case.scan().fake_quantize_(maps, projected)
    rank, rules = case.rank, case.rules
    low = case.projected[..., :rank].flatten(1, 2).clone()
    fake_quantize_(low, rules.low)
    rows, placed = case.projected.flatten(1, 2), projected.flatten(1, 2)
    assert torch.equal(placed[..., :rank], low)
    middle = rank + states
    for found, part, levels, rule in (
        (x, case.x, maps, rules.x),
        (B, rows[..., rank:middle], placed[..., rank:middle], rules.B),
        (C, rows[..., middle:], placed[..., middle:], rules.C),
    ):
        assert torch.allclose(found, choose_qparams(part, rule), rtol=1e-5, atol=1e-6)
        expected = part.clone()
        fake_quantize_(expected, rule, found)
        assert torch.equal(levels, expected)
    raw = low.unflatten(1, (case.pixels, 4)).transpose(1, 2)
    raw = raw @ case.dt_weight.dequantize().transpose(1, 2)
    expected = choose_qparams(raw.flatten(1, 2), rules.delta)
    assert torch.allclose(steps, expected, rtol=1e-5, atol=1e-6)


@needs_kernel
@pytest.mark.parametrize("bits", [2, 8])
def test_routes_can_be_kept_apart(instruction_set: str, bits: int) -> None:
    case = Case(2, (5, 6), 21, 3, bits, window=4)
    apart = case.run(merge=False)
    assert apart.shape == (2, 4, 30, 21)
    close(apart.sum(1), case.naive())


@needs_kernel
@pytest.mark.parametrize(("channels", "gated"), [(72, True), (19, False)])
def test_the_grids_of_the_result_come_with_it(
    instruction_set: str, channels: int, gated: bool
) -> None:
    case = Case(3, (5, 7), channels, 6, 4)
    rule = QParamsRule(4, weights=torch.tensor([0.1, 0.4, 0.02, 0.01, -1.0, 0.1, 0.05, 0.02]))
    gate = torch.randn(case.x.shape) if gated else None
    scan = case.scan(norm=nn.LayerNorm(channels), output=rule)
    y, grids = scan(case.x.clone(), case.projected.clone(), case.routes, gate=gate)
    assert grids is not None
    assert torch.allclose(grids, choose_qparams(y, rule), rtol=1e-5, atol=1e-6)
    fixed = case.scan(output=QParamsRule(4, fixed=(0.1, 0.0)))
    assert fixed(case.x, case.projected, case.routes).qparams is None


@needs_kernel
@pytest.mark.parametrize("count", [1, 10, 16, 45])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_an_operand_is_put_on_the_grid_of_its_statistics(
    instruction_set: str, count: int, bits: int
) -> None:
    whole = torch.randn(3, 50, 64) * torch.tensor([1.0, 5.0, 0.01])[:, None, None] + 0.3
    part = whole[..., 7 : 7 + count]
    before = part.clone()
    outside = whole[..., 7 + count :].clone()
    step = 6 / 2**bits
    weights = torch.tensor([0.1 * step, step, 0.02 * step, 0.01 * step, -1.0, 0.1, 0.05, 0.02])
    rule = QParamsRule(bits, weights=weights, copies=4)
    found = quantize(part, rule)
    grids = fake_quantize_(part, rule)
    assert torch.equal(whole[..., 7 + count :], outside)
    rows = before.double().flatten(1)
    mean, low, high = rows.mean(1), rows.amin(1), rows.amax(1)
    number = rows.shape[1] * 4
    deviation = ((rows - mean[:, None]).square().sum(1) * 4 / (number - 1)).sqrt()
    w, o = weights[:4].double(), weights[4:].double()
    offset = o @ torch.stack([mean, deviation, low, high])
    length = w @ torch.stack([(mean + offset).abs(), deviation, low + offset, high + offset])
    widest = (high - low) / 2**bits
    scale = torch.minimum(torch.maximum(length.abs(), widest * 1e-3), widest)
    expected = torch.stack([scale, offset, low, high], dim=1)
    # Terms of an offset may cancel; they are as large as the greatest value.
    bound = 1e-5 * expected.abs() + 1e-6 * rows.abs().amax(1)[:, None]
    assert ((grids.double() - expected).abs() <= bound).all()
    grid = grids.double().T[:, :, None, None]
    codes = ((before + grid[1]) / grid[0]).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    values = torch.clamp(codes * grid[0] - grid[1], grid[2], grid[3])
    close_enough = (part - values).abs() <= 1e-5 * values.abs().amax((1, 2), keepdim=True)
    assert close_enough.float().mean() > 0.999
    same = (found.codes.double() - 2 ** (bits - 1)) == codes
    assert same.float().mean() > 0.999


@needs_kernel
@pytest.mark.parametrize(
    ("bounds", "is_cut"),
    [((), False), ((-2.0, 2.0), False), ((-0.5, 2.0), True), ((-2.0, 0.5), True)],
)
def test_codes_tell_whether_bounds_cut_levels_off(bounds: tuple[float, ...], is_cut: bool) -> None:
    x = torch.linspace(-1, 1, 200).view(1, 20, 10)
    rule = QParamsRule(4, fixed=(0.15, 0.02, *bounds))
    found = quantize(x, rule)
    assert found.is_cut == is_cut
    values = found.codes.float() * found.scale - found.offset
    fake_quantize_(x, rule)
    expected = values.clamp(*bounds) if bounds else values
    assert torch.allclose(x, expected, atol=1e-6)


@needs_kernel
def test_middles_between_codes_are_decided_as_by_division(instruction_set: str) -> None:
    scale = 0.1
    steps = torch.arange(-9, 9, 0.5)
    x = (steps * scale).repeat(5).view(1, 9, 20)
    expected = torch.round(x / torch.tensor(scale)).clamp(-8, 7)
    found = quantize(x, QParamsRule(4, fixed=(scale, 0.0)))
    assert torch.equal(found.codes.float() - 8, expected)


@needs_kernel
def test_a_constant_operand_passes_almost_unchanged() -> None:
    x = torch.full((1, 8, 8), 1.25)
    weights = torch.tensor([0.0, 0.3, 0.0, 0.0, -1.0, -0.15, 0.0, 0.0])
    fake_quantize_(x, QParamsRule(4, weights=weights))
    assert torch.equal(x, torch.full((1, 8, 8), 1.25))
