"""The C++ kernel against the definition, forward and backward, in every variant built."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qmamba.ops.native import library
from qmamba.ops.native.scan import selective_scan_native, ss2d_native
from qmamba.ops.scan.naive import selective_scan_naive, ss2d_naive
from tests.ops.cases import (
    largest_relative_error,
    map_inputs,
    route_tables,
    scan_inputs,
    values_and_gradients,
)

pytestmark = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def over_map(function: Callable[..., Tensor], routes: Tensor, merge: bool) -> Callable[..., Tensor]:
    def call(x: Tensor, projected: Tensor, *parameters: Tensor) -> Tensor:
        return function(x, projected, routes, *parameters, merge)

    return call


def check_map(
    sizes: tuple[int, int, int, int, int, int],
    window: int,
    merge: bool,
    routes: int = 4,
    dtype: torch.dtype = torch.float32,
    tolerance: float | None = None,
) -> None:
    batch, height, width, channels, states, rank = sizes
    tensors = map_inputs(batch, height, width, channels, states, rank, routes)
    tables = route_tables(height, width, window, routes)
    if dtype != torch.float32:
        tensors = [t.to(dtype).double() for t in tensors]
    actual = values_and_gradients(over_map(ss2d_native, tables, merge), tensors, dtype)
    expected = values_and_gradients(over_map(ss2d_naive, tables, merge), tensors)
    assert largest_relative_error(actual, expected) < (tolerance or TOLERANCE[dtype])


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(
    ("sizes", "window"),
    [
        ((2, 5, 7, 40, 1, 3), 1),
        ((1, 9, 6, 17, 16, 2), 4),
        ((3, 4, 4, 5, 10, 1), 8),
        ((1, 1, 1, 33, 2, 2), 1),
        ((1, 13, 11, 16, 4, 1), 3),
    ],
)
def test_map_scan_equals_the_definition(
    instruction_set: str, sizes: tuple[int, int, int, int, int, int], window: int, merge: bool
) -> None:
    check_map(sizes, window, merge)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(
        st.integers(1, 3),
        st.integers(1, 9),
        st.integers(1, 9),
        st.integers(1, 40),
        st.integers(1, 16),
        st.integers(1, 4),
    ),
    st.integers(1, 5),
    st.booleans(),
    st.integers(1, 4),
)
def test_map_scan_at_any_shape(
    sizes: tuple[int, int, int, int, int, int], window: int, merge: bool, routes: int
) -> None:
    # A gradient that is one sum of canceling terms has a large relative error of its own.
    check_map(sizes, window, merge, routes, tolerance=2e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_map_scan_in_reduced_precision(instruction_set: str, dtype: torch.dtype) -> None:
    check_map((2, 6, 7, 35, 1, 3), 1, True, dtype=dtype)


@pytest.mark.parametrize(
    ("batch", "channels", "length", "states", "groups"),
    [(2, 24, 17, 1, 4), (1, 6, 70, 4, 1), (2, 64, 33, 16, 2), (1, 3, 1, 2, 3)],
)
@pytest.mark.parametrize("softplus", [True, False])
def test_scan_equals_the_definition(
    instruction_set: str,
    batch: int,
    channels: int,
    length: int,
    states: int,
    groups: int,
    softplus: bool,
) -> None:
    tensors = scan_inputs(batch, channels, length, states, groups)
    if not softplus:
        tensors[1], tensors[6] = tensors[1].abs(), tensors[6].abs()

    def with_softplus(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *inputs: function(*inputs, softplus)

    actual = values_and_gradients(with_softplus(selective_scan_native), tensors, torch.float32)
    expected = values_and_gradients(with_softplus(selective_scan_naive), tensors)
    assert largest_relative_error(actual, expected) < TOLERANCE[torch.float32]


def test_scan_without_optional_tensors_and_without_groups() -> None:
    u, delta, A, B, C, _, _ = (t.float() for t in scan_inputs(2, 8, 19, 3, 1))
    actual = selective_scan_native(u, delta.abs(), A, B[:, 0], C[:, 0])
    expected = selective_scan_naive(u, delta.abs(), A, B[:, 0], C[:, 0])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_inputs_need_not_be_contiguous() -> None:
    tensors = scan_inputs(2, 12, 21, 2, 3)

    def strided(tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(2, dim=-1)[..., ::2]

    def scan(*inputs: Tensor) -> Tensor:
        return selective_scan_native(*inputs, True)

    actual = values_and_gradients(scan, tensors, torch.float32, strided)
    expected = values_and_gradients(lambda *t: selective_scan_naive(*t, True), tensors)
    assert largest_relative_error(actual, expected) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("raw", [-60.0, -9.0, 9.0, 60.0])
def test_extreme_time_steps_stay_finite_and_right(raw: float) -> None:
    u, delta, A, B, C, D, bias = scan_inputs(1, 16, 40, 2, 1)
    tensors = [u, delta * 0.1 + raw, A, B, C, D, bias]
    actual = values_and_gradients(
        lambda *t: selective_scan_native(*t, True), tensors, torch.float32
    )
    expected = values_and_gradients(lambda *t: selective_scan_naive(*t, True), tensors)
    assert all(torch.isfinite(t).all() for t in actual)
    assert largest_relative_error(actual[:2], expected[:2]) < 1e-4


def test_not_a_number_is_not_hidden() -> None:
    tensors = [t.to(torch.bfloat16) for t in map_inputs(1, 4, 4, 16, 1, 1)]
    tensors[0][0, 0, 0] = torch.nan
    y = ss2d_native(tensors[0], tensors[1], route_tables(4, 4), *tensors[2:])
    assert torch.isnan(y[0, :, 0]).any()
    assert torch.isfinite(y[0, :, 1:]).all()


def test_the_same_bits_every_time_and_forward_for_any_thread_count() -> None:
    tensors = map_inputs(2, 12, 12, 64, 1, 2)
    tables = route_tables(12, 12)
    threads = torch.get_num_threads()
    try:
        results = {}
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            call = over_map(ss2d_native, tables, True)
            first = values_and_gradients(call, tensors, torch.float32)
            again = values_and_gradients(call, tensors, torch.float32)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
            results[count] = first
        assert torch.equal(results[1][0], results[2][0])
        assert torch.equal(results[1][0], results[3][0])
        for count in (2, 3):
            assert largest_relative_error(results[count], results[1]) < 1e-5
    finally:
        torch.set_num_threads(threads)


def test_own_threads_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = map_inputs(2, 8, 8, 32, 1, 2)
    call = over_map(ss2d_native, route_tables(8, 8), True)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        shared_pool = values_and_gradients(call, tensors, torch.float32)
        monkeypatch.setattr(library.load_kernel(), "torch_pool", None)
        own_threads = values_and_gradients(call, tensors, torch.float32)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(shared_pool, own_threads, strict=True))


def test_inference_saves_no_states_and_training_one_in_thirty_two() -> None:
    segment = library.load_kernel().segment
    x, projected, *rest = (t.float() for t in map_inputs(1, 16, 16, 16, 1, 1))
    call = (x, projected, route_tables(16, 16), *rest, None, True, True)
    assert torch.ops.qmamba.scan_forward(*call, False)[1].numel() == 0
    states = torch.ops.qmamba.scan_forward(*call, True)[1]
    assert states.shape == (1, 4, 256 // segment, 1, 16)


@pytest.mark.parametrize("merge", [True, False])
def test_the_operator_is_registered_completely(merge: bool) -> None:
    x, projected, *rest = (t.float().requires_grad_() for t in map_inputs(1, 5, 4, 16, 2, 1))
    arguments = (x, projected, route_tables(5, 4), *rest, None, merge, True, True)
    torch.library.opcheck(torch.ops.qmamba.scan_forward.default, arguments)
