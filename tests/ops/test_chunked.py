"""The pure-PyTorch scan against the definition, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qmamba.errors import ShapeError
from qmamba.ops.scan import state_space
from qmamba.ops.scan.chunked import selective_scan_chunked, ss2d_chunked
from qmamba.ops.scan.naive import selective_scan_naive, ss2d_naive
from tests.ops.cases import (
    largest_relative_error,
    map_inputs,
    route_tables,
    scan_inputs,
    values_and_gradients,
)

TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.bfloat16: 3e-2,
    torch.float16: 5e-3,
}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that little inputs are cut along every axis."""
    monkeypatch.setattr(state_space, "_BLOCK_ELEMENTS_CPU", 256)
    monkeypatch.setattr(state_space, "_LEAST_STEPS", 6)


def over_map(function: Callable[..., Tensor], routes: Tensor, merge: bool) -> Callable[..., Tensor]:
    def call(x: Tensor, projected: Tensor, *parameters: Tensor) -> Tensor:
        return function(x, projected, routes, *parameters, merge)

    return call


def with_softplus(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(*tensors: Tensor) -> Tensor:
        return function(*tensors, True)

    return call


def check_map(
    sizes: tuple[int, int, int, int, int, int],
    window: int,
    merge: bool,
    routes: int = 4,
    dtype: torch.dtype = torch.float64,
    rearrange: Callable[[Tensor], Tensor] = lambda t: t,
) -> None:
    batch, height, width, channels, states, rank = sizes
    tensors = map_inputs(batch, height, width, channels, states, rank, routes)
    tensors = [t.to(dtype).double() for t in tensors]
    tables = route_tables(height, width, window, routes)
    actual = values_and_gradients(over_map(ss2d_chunked, tables, merge), tensors, dtype, rearrange)
    expected = values_and_gradients(over_map(ss2d_naive, tables, merge), tensors)
    assert largest_relative_error(actual, expected) < TOLERANCE[dtype]


def check_sequence(
    sizes: tuple[int, int, int, int, int],
    dtype: torch.dtype = torch.float64,
    rearrange: Callable[[Tensor], Tensor] = lambda t: t,
) -> None:
    tensors = [t.to(dtype).double() for t in scan_inputs(*sizes)]
    actual = values_and_gradients(with_softplus(selective_scan_chunked), tensors, dtype, rearrange)
    expected = values_and_gradients(with_softplus(selective_scan_naive), tensors)
    assert largest_relative_error(actual, expected) < TOLERANCE[dtype]


def strided(tensor: Tensor) -> Tensor:
    """The same values with gaps and a different order of axes in memory."""
    order = list(range(tensor.dim()))[::-1]
    return torch.stack([tensor, -tensor], -1).permute(-1, *order).contiguous()[0].permute(order)


MAPS = [
    ((2, 5, 7, 40, 1, 3), 1),
    ((1, 9, 6, 17, 16, 2), 4),
    ((3, 4, 4, 5, 10, 1), 8),
    ((1, 1, 1, 33, 2, 2), 1),
    ((1, 13, 11, 16, 4, 1), 3),
]


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(("sizes", "window"), MAPS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_map_scan_equals_the_definition(
    sizes: tuple[int, int, int, int, int, int], window: int, merge: bool, dtype: torch.dtype
) -> None:
    check_map(sizes, window, merge, dtype=dtype)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(("sizes", "window"), MAPS)
def test_map_scan_in_many_blocks(
    sizes: tuple[int, int, int, int, int, int], window: int, merge: bool
) -> None:
    check_map(sizes, window, merge)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 8),
    width=st.integers(1, 8),
    channels=st.integers(1, 40),
    states=st.integers(1, 16),
    rank=st.integers(1, 4),
    window=st.integers(1, 5),
    routes=st.integers(1, 4),
    merge=st.booleans(),
)
def test_map_scan_of_any_size(
    batch: int,
    height: int,
    width: int,
    channels: int,
    states: int,
    rank: int,
    window: int,
    routes: int,
    merge: bool,
) -> None:
    check_map((batch, height, width, channels, states, rank), window, merge, routes)


SEQUENCES = [(2, 6, 67, 3, 2), (1, 5, 1, 1, 1), (2, 12, 23, 16, 4), (3, 4, 8, 2, 1)]


@pytest.mark.parametrize("sizes", SEQUENCES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sequence_scan_equals_the_definition(
    sizes: tuple[int, int, int, int, int], dtype: torch.dtype
) -> None:
    check_sequence(sizes, dtype)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("sizes", SEQUENCES)
def test_sequence_scan_in_many_blocks(sizes: tuple[int, int, int, int, int]) -> None:
    check_sequence(sizes)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    group_channels=st.integers(1, 10),
    length=st.integers(1, 70),
    states=st.integers(1, 16),
    groups=st.integers(1, 4),
)
def test_sequence_scan_of_any_size(
    batch: int, group_channels: int, length: int, states: int, groups: int
) -> None:
    check_sequence((batch, group_channels * groups, length, states, groups))


def test_sequence_scan_without_its_options() -> None:
    u, delta, A, B, C, D, bias = scan_inputs(2, 6, 31, 3, 1)
    delta = delta.abs()
    for arguments in (
        (u, delta, A, B, C),
        (u, delta, A, B[:, 0], C[:, 0]),
        (u, delta, A, B, C, D),
        (u, delta, A, B, C, None, bias, True),
    ):
        torch.testing.assert_close(
            selective_scan_chunked(*arguments), selective_scan_naive(*arguments)
        )


def test_gradcheck() -> None:
    tensors = [t.requires_grad_() for t in map_inputs(2, 3, 2, 2, 2, 1, routes=2)]
    tables = route_tables(3, 2, 2, routes=2)
    for merge in (True, False):
        assert torch.autograd.gradcheck(over_map(ss2d_chunked, tables, merge), tensors)
    tensors = [t.requires_grad_() for t in scan_inputs(2, 4, 9, 2, 2)]
    assert torch.autograd.gradcheck(with_softplus(selective_scan_chunked), tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_and_strided_inputs(dtype: torch.dtype) -> None:
    check_map((2, 7, 6, 12, 4, 3), 4, True, dtype=dtype, rearrange=strided)
    check_map((2, 7, 6, 12, 1, 3), 1, False, dtype=dtype, rearrange=strided)
    check_sequence((2, 6, 41, 3, 2), dtype, strided)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_output_has_the_dtype_of_the_map_and_parameters_may_differ(dtype: torch.dtype) -> None:
    x, projected, *parameters = map_inputs(1, 4, 5, 6, 2, 1)
    parameters = [t.float().requires_grad_() for t in parameters]
    x, projected = x.to(dtype).requires_grad_(), projected.float().requires_grad_()
    y = over_map(ss2d_chunked, route_tables(4, 5), True)(x, projected, *parameters)
    assert y.dtype == dtype
    y.float().sum().backward()
    for tensor in (x, projected, *parameters):
        assert tensor.grad is not None and tensor.grad.dtype == tensor.dtype


@pytest.mark.parametrize("bias", [9.0, 20.0, 100.0])
def test_large_time_steps_stay_finite(bias: float) -> None:
    x, projected, weight, dt_bias, A, D = map_inputs(1, 16, 16, 8, 4, 2)
    tensors = [x, projected, weight, torch.full_like(dt_bias, bias), A, D]
    tables = route_tables(16, 16)
    actual = values_and_gradients(over_map(ss2d_chunked, tables, True), tensors, torch.float32)
    expected = values_and_gradients(over_map(ss2d_naive, tables, True), tensors)
    assert all(t.isfinite().all() for t in actual)
    assert largest_relative_error(actual, expected) < 1e-4


def test_long_sequence_of_prime_length() -> None:
    check_sequence((1, 2, 2999, 1, 1))


@pytest.mark.parametrize("merge", [True, False])
def test_without_gradients_the_values_are_the_same_and_nothing_is_kept(merge: bool) -> None:
    tensors = [t.requires_grad_() for t in map_inputs(2, 6, 5, 8, 3, 2)]
    scan = over_map(ss2d_chunked, route_tables(6, 5, 4), merge)
    tracked = scan(*tensors)
    with torch.no_grad():
        plain = scan(*tensors)
    assert tracked.requires_grad and not plain.requires_grad
    assert torch.equal(plain, tracked)


def test_inference_mode_leaves_later_training_possible() -> None:
    tensors = [t.requires_grad_() for t in map_inputs(1, 20, 20, 8, 3, 2)]
    scan = over_map(ss2d_chunked, route_tables(20, 20), True)

    def infer_then_train() -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            inferred = scan(*tensors)
        trained = scan(*tensors)
        trained.sum().backward()
        return inferred, trained

    with ThreadPoolExecutor(1) as fresh_thread:
        inferred, trained = fresh_thread.submit(infer_then_train).result()
    assert torch.equal(inferred, trained)


def test_scans_in_several_threads_do_not_disturb_each_other() -> None:
    routes = route_tables(24, 24)
    cases = [[t.float() for t in map_inputs(1, 24, 24, 8, 2, 2, seed=s)] for s in range(4)]
    scan = over_map(ss2d_chunked, routes, True)
    expected = [scan(*case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for actual, y in zip(pool.map(lambda case: scan(*case), cases), expected, strict=True):
                assert torch.equal(actual, y)


def test_autocast_does_not_lower_the_precision_of_the_scan() -> None:
    tensors = [t.float().requires_grad_() for t in map_inputs(1, 6, 6, 8, 2, 4)]
    scan = over_map(ss2d_chunked, route_tables(6, 6), True)
    expected = scan(*tensors)
    expected_gradients = torch.autograd.grad(expected.sum(), tensors)
    with torch.autocast("cpu", torch.bfloat16):
        actual = scan(*tensors)
        gradients = torch.autograd.grad(actual.sum(), tensors)
    assert torch.equal(actual, expected)
    assert all(map(torch.equal, gradients, expected_gradients))


def test_tape_holds_the_arguments_and_few_states() -> None:
    tensors = [t.float().requires_grad_() for t in map_inputs(1, 32, 32, 32, 16, 2)]
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    def unpack(tensor: Any) -> Any:
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        over_map(ss2d_chunked, route_tables(32, 32), True)(*tensors)
    x = tensors[0]
    all_states = 4 * 16 * x.numel()
    arguments = sum(t.numel() for t in tensors) + route_tables(32, 32).numel()
    assert sum(t.numel() for t in saved) <= arguments + all_states / 32


def test_scan_is_deterministic() -> None:
    tensors = [t.float() for t in map_inputs(2, 14, 14, 16, 1, 2)]
    scan = over_map(ss2d_chunked, route_tables(14, 14, 4), True)
    first = values_and_gradients(scan, tensors, torch.float32)
    second = values_and_gradients(scan, tensors, torch.float32)
    assert all(map(torch.equal, first, second))


def test_batch_of_nothing_gives_nothing() -> None:
    x, projected, *parameters = map_inputs(1, 3, 3, 4, 2, 1)
    for merge, shape in ((True, (0, 9, 4)), (False, (0, 4, 9, 4))):
        scan = over_map(ss2d_chunked, route_tables(3, 3), merge)
        assert scan(x[:0], projected[:0], *parameters).shape == shape


def test_empty_sequences_are_refused() -> None:
    x, projected, *parameters = map_inputs(1, 2, 2, 4, 2, 1)
    with pytest.raises(ShapeError, match="map"):
        no_steps = over_map(ss2d_chunked, route_tables(2, 2)[:, :0], True)
        no_steps(x[:, :0], projected[:, :0], *parameters)
    u, delta, A, B, C, *_ = scan_inputs(1, 4, 3, 2, 1)
    with pytest.raises(ShapeError, match="sequence"):
        selective_scan_chunked(u[..., :0], delta[..., :0], A, B[..., :0], C[..., :0])


def block_cases() -> Iterator[tuple[int, int, int, int, int]]:
    for states in (1, 16):
        for batch in (1, 128):
            for steps, channels in ((1, 3), (49, 1536), (3136, 192), (65536, 72), (64, 10**6)):
                yield states, 4, batch, steps, channels


@pytest.mark.parametrize("sizes", list(block_cases()))
@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_blocks_fit_the_scratch_budget(
    sizes: tuple[int, int, int, int, int], device_type: str
) -> None:
    states, groups, batch, steps, channels = sizes
    block = state_space.block_sizes(*sizes, device_type)
    assert 1 <= block.states <= states and 1 <= block.groups <= groups
    assert 1 <= block.batch <= batch and 1 <= block.steps <= steps
    budget = {
        "cpu": state_space._BLOCK_ELEMENTS_CPU,
        "cuda": state_space._BLOCK_ELEMENTS_ACCELERATOR,
    }[device_type]
    elements = block.states * block.groups * block.batch * block.steps * channels
    least = state_space._LEAST_STEPS * channels
    assert elements <= max(budget, least)
    if steps > 64:
        assert block.steps >= 32


@pytest.mark.parametrize("merge", [True, False])
def test_the_map_operator_is_registered_completely(merge: bool) -> None:
    x, projected, *parameters = [t.requires_grad_() for t in map_inputs(1, 3, 3, 4, 2, 1)]
    arguments = (x, projected, route_tables(3, 3, 2), *parameters, merge, True)
    torch.library.opcheck(torch.ops.qmamba.chunked_map_scan.default, arguments)


def test_the_sequence_operator_is_registered_completely() -> None:
    u, delta, A, B, C, *_ = scan_inputs(1, 2, 5, 2, 1)
    arguments = (
        u.mT[None],
        delta.abs().mT[None],
        A.T[:, None],
        B[0, 0][:, None, None],
        C[0, 0][:, None, None],
    )
    leaves = tuple(t.contiguous().requires_grad_() for t in arguments)
    torch.library.opcheck(torch.ops.qmamba.chunked_scan.default, (*leaves, True))


def test_the_scan_compiles_and_trains_as_one_operator() -> None:
    tensors = [t.requires_grad_() for t in map_inputs(1, 4, 5, 6, 2, 1)]
    scan = over_map(ss2d_chunked, route_tables(4, 5, 2), True)
    compiled = torch.compile(scan, backend="aot_eager", fullgraph=True)
    gradients = torch.autograd.grad(compiled(*tensors).sum(), tensors)
    expected = torch.autograd.grad(scan(*tensors).sum(), tensors)
    assert all(map(torch.equal, gradients, expected))
