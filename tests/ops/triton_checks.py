"""The Triton kernels against the definition. ``test_triton.py`` runs this file in a process.

With ``TRITON_INTERPRET=1`` the kernels run in Triton's interpreter on the CPU, else on the GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from qmamba.ops import backends, selective_scan, ss2d
from qmamba.ops.scan.naive import selective_scan_naive, ss2d_naive
from qmamba.ops.triton import launch
from qmamba.ops.triton.operators import selective_scan_triton, ss2d_triton
from tests.ops.cases import (
    check_own_routes,
    largest_relative_error,
    map_inputs,
    route_tables,
    scan_inputs,
    values_and_gradients,
)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    import tests.ops.interpreter  # noqa: F401

DEVICE = "cpu" if INTERPRETED else "cuda"
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}

MapSizes = tuple[int, int, int, int, int, int]
"""Images, height, width, channels, states, rank."""


def on_device(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(*tensors: Tensor) -> Tensor:
        return function(*(tensor.to(DEVICE) for tensor in tensors)).cpu()

    return call


def on_device_with(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(*arguments: Any) -> Tensor:
        return function(
            *(value.to(DEVICE) if isinstance(value, Tensor) else value for value in arguments)
        ).cpu()

    return call


def over_map(function: Callable[..., Tensor], routes: Tensor, merge: bool) -> Callable[..., Tensor]:
    def call(x: Tensor, projected: Tensor, *parameters: Tensor) -> Tensor:
        return function(x, projected, routes.to(x.device), *parameters, merge)

    return call


def check_map(
    sizes: MapSizes,
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
    actual = values_and_gradients(on_device(over_map(ss2d_triton, tables, merge)), tensors, dtype)
    expected = values_and_gradients(over_map(ss2d_naive, tables, merge), tensors)
    assert largest_relative_error(actual, expected) < (tolerance or TOLERANCE[dtype])


@pytest.fixture
def three_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "segments_for", lambda *_: 3)


@pytest.mark.parametrize(
    ("sizes", "window", "merge", "routes"),
    [
        ((2, 5, 7, 20, 1, 3), 1, True, 4),
        ((1, 5, 4, 40, 1, 1), 4, False, 4),
        ((1, 4, 6, 5, 2, 2), 1, True, 2),
        ((1, 4, 4, 32, 3, 4), 1, True, 1),
        ((1, 1, 1, 33, 10, 17), 1, False, 2),
        ((1, 5, 5, 6, 16, 1), 3, True, 2),
    ],
)
def test_map_scan_equals_the_definition(
    sizes: MapSizes, window: int, merge: bool, routes: int
) -> None:
    check_map(sizes, window, merge, routes)


def test_every_configuration_equals_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    from qmamba.ops.triton import configurations

    x, projected, *rest = (t.float().to(DEVICE) for t in map_inputs(1, 5, 7, 40, 2, 2, 2))
    routes = route_tables(5, 7, routes=2).to(DEVICE)
    expected = ss2d_naive(x, projected, routes, *rest)
    for configuration in configurations.SCAN_CONFIGURATIONS:
        monkeypatch.setattr(configurations.scan, "rule", lambda _, chosen=configuration: chosen)
        actual = ss2d_triton(x, projected, routes, *rest)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    if INTERPRETED:
        return  # The others differ only in what the interpreter does not know of.
    monkeypatch.setattr(
        configurations.scan, "rule", lambda _: configurations.SCAN_CONFIGURATIONS[0]
    )
    for configuration in configurations.BACKWARD_CONFIGURATIONS:
        if 32 * configuration.kwargs["VECTOR"] * configuration.num_warps == 64:
            monkeypatch.setattr(configurations.scan_backward, "rule", lambda _, c=configuration: c)
            check_map((2, 4, 5, 100, 1, 3), 1, True)


def test_no_trial_is_run_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from qmamba.ops.triton import configurations

    for launched in (configurations.scan, configurations.scan_backward):
        monkeypatch.setattr(launched, "trials", None)
    monkeypatch.delenv("QMAMBA_AUTOTUNE", raising=False)
    check_map((1, 3, 4, 40, 3, 2), 1, True, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_map_scan_in_reduced_precision(dtype: torch.dtype) -> None:
    check_map((2, 3, 6, 35, 1, 3), 1, True, 2, dtype)


@pytest.mark.usefixtures("three_segments")
@pytest.mark.parametrize(
    ("sizes", "window", "merge"),
    [((1, 10, 14, 8, 1, 2), 1, True), ((1, 9, 15, 6, 3, 1), 8, False)],
)
def test_long_routes_in_segments_equal_the_definition(
    sizes: MapSizes, window: int, merge: bool
) -> None:
    check_map(sizes, window, merge, 2)


@pytest.mark.parametrize("merge", [True, False])
def test_every_image_has_its_own_routes(merge: bool) -> None:
    check_own_routes(on_device_with(ss2d_triton), merge)


def test_groups_of_images_share_a_program() -> None:
    check_map((9, 2, 3, 70, 1, 1), 1, True, 2)


@pytest.mark.parametrize(
    ("sizes", "softplus"),
    [
        ((2, 24, 17, 1, 4), True),
        ((1, 6, 35, 4, 1), False),
        ((1, 3, 1, 2, 3), True),
    ],
)
def test_scan_equals_the_definition(sizes: tuple[int, int, int, int, int], softplus: bool) -> None:
    tensors = scan_inputs(*sizes)
    if not softplus:
        tensors[1], tensors[6] = tensors[1].abs(), tensors[6].abs()

    def with_softplus(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *inputs: function(*inputs, softplus)

    scan = on_device(with_softplus(selective_scan_triton))
    actual = values_and_gradients(scan, tensors, torch.float32)
    expected = values_and_gradients(with_softplus(selective_scan_naive), tensors)
    assert largest_relative_error(actual, expected) < TOLERANCE[torch.float32]


@pytest.mark.usefixtures("three_segments")
def test_a_long_scan_in_segments_equals_the_definition() -> None:
    tensors = scan_inputs(1, 4, 150, 2, 2)
    scan = on_device(lambda *inputs: selective_scan_triton(*inputs, True))
    actual = values_and_gradients(scan, tensors, torch.float32)
    expected = values_and_gradients(lambda *t: selective_scan_naive(*t, True), tensors)
    assert largest_relative_error(actual, expected) < TOLERANCE[torch.float32]


def test_scan_without_optional_tensors_and_without_groups() -> None:
    u, delta, A, B, C, _, _ = (t.float().to(DEVICE) for t in scan_inputs(2, 8, 19, 3, 1))
    actual = selective_scan_triton(u, delta.abs(), A, B[:, 0], C[:, 0])
    expected = selective_scan_naive(u, delta.abs(), A, B[:, 0], C[:, 0])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("raw", [-60.0, -9.0, 9.0, 60.0])
def test_extreme_time_steps_stay_finite_and_right(raw: float) -> None:
    u, delta, A, B, C, D, bias = scan_inputs(1, 16, 20, 2, 1)
    tensors = [u, delta * 0.1 + raw, A, B, C, D, bias]
    scan = on_device(lambda *inputs: selective_scan_triton(*inputs, True))
    actual = values_and_gradients(scan, tensors, torch.float32)
    expected = values_and_gradients(lambda *t: selective_scan_naive(*t, True), tensors)
    assert all(torch.isfinite(t).all() for t in actual)
    assert largest_relative_error(actual[:2], expected[:2]) < 1e-4


def test_wide_addresses_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "MOST_SHORT_ADDRESS", 0)
    check_map((1, 3, 4, 6, 1, 2), 1, True, 2)


def test_a_time_step_of_rank_zero_is_its_bias() -> None:
    tensors = [t.float().to(DEVICE) for t in map_inputs(1, 2, 3, 4, 1, 0)]
    x, projected, *rest = tensors
    routes = route_tables(2, 3).to(DEVICE)
    actual = ss2d_triton(x, projected, routes, *rest)
    expected = ss2d_naive(x, projected, routes, *rest)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_not_a_number_is_not_hidden() -> None:
    x, projected, *rest = (t.to(torch.bfloat16).to(DEVICE) for t in map_inputs(1, 2, 3, 16, 1, 1))
    x[0, 0, 0] = torch.nan
    y = ss2d_triton(x, projected, route_tables(2, 3).to(DEVICE), *rest)
    assert torch.isnan(y[0, :, 0]).any()
    assert torch.isfinite(y[0, :, 1:]).all()


def test_the_same_bits_every_time() -> None:
    tensors = map_inputs(3, 4, 5, 24, 2, 2)
    scan = on_device(over_map(ss2d_triton, route_tables(4, 5), True))
    first = values_and_gradients(scan, tensors, torch.float32)
    again = values_and_gradients(scan, tensors, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_inference_saves_no_states_and_training_one_in_sixteen() -> None:
    x, projected, *rest = (t.float().to(DEVICE) for t in map_inputs(1, 5, 4, 16, 1, 1))
    call = (x, projected, route_tables(5, 4).to(DEVICE), *rest, None, True, True)
    assert torch.ops.qmamba.triton_scan(*call, False)[1].numel() == 0
    assert torch.ops.qmamba.triton_scan(*call, True)[1].shape == (1, 4, 2, 1, 16)


@pytest.mark.parametrize("merge", [True, False])
def test_the_operator_is_registered_completely(merge: bool) -> None:
    tensors = [t.float().to(DEVICE).requires_grad_() for t in map_inputs(1, 2, 2, 3, 2, 1, 1)]
    x, projected, *rest = tensors
    routes = route_tables(2, 2, routes=1).to(DEVICE)
    arguments = (x, projected, routes, *rest, None, merge, True, True)
    torch.library.opcheck(torch.ops.qmamba.triton_scan.default, arguments)


def test_the_scan_runs_when_asked_for_and_compiles() -> None:
    rows = [row for row in backends() if row.name == "triton" and row.device == DEVICE]
    assert [row.available for row in rows] == [True]
    u, *rest = (t.float().to(DEVICE) for t in scan_inputs(1, 4, 5, 1, 1))
    torch.testing.assert_close(
        selective_scan(u, *rest, backend="triton"), selective_scan(u, *rest, backend="naive")
    )
    x, projected, *rest = (t.float().to(DEVICE) for t in map_inputs(1, 2, 3, 4, 1, 1))
    routes = route_tables(2, 3).to(DEVICE)

    def scan(x: Tensor) -> Tensor:
        return ss2d(x, projected, routes, *rest, backend="triton") * 2

    compiled = torch.compile(scan, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), scan(x))
