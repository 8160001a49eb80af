"""Routes that differ from image to image: every implementation against the definition."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from qmamba.errors import ShapeError
from qmamba.ops import (
    class_route,
    gather_routes,
    scan_routes,
    scatter_routes,
    ss2d,
    ss2d_given_delta,
    step_of_pixel,
)
from qmamba.ops.native import library
from qmamba.ops.native.prepared_scan import PackedScan
from qmamba.ops.native.scan import ss2d_native
from qmamba.ops.scan.chunked import ss2d_chunked
from qmamba.ops.scan.naive import ss2d_naive
from tests.ops.cases import check_own_routes, map_inputs, own_routes

needs_kernel = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason="the C++ kernel was not built"
)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(
    "scan", [ss2d_naive, ss2d_chunked, pytest.param(ss2d_native, marks=needs_kernel)]
)
def test_every_image_has_its_own_routes(scan: Callable[..., Tensor], merge: bool) -> None:
    check_own_routes(scan, merge)


@needs_kernel
def test_every_variant_of_the_kernel(instruction_set: str) -> None:
    check_own_routes(ss2d_native, merge=True)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(
    "backend", ["naive", "chunked", pytest.param("native", marks=needs_kernel)]
)
def test_given_time_steps_have_them_too(backend: str, merge: bool) -> None:
    routes = own_routes(2, 12, 15, 2)
    x, projected, _, bias, A, D = (
        t.float() for t in map_inputs(2, 3, 4, channels=5, states=2, rank=0, routes=2)
    )
    steps = torch.randn(2, 2, 12, 5, generator=torch.Generator().manual_seed(1))
    scan = partial(ss2d_given_delta, dt_bias=bias, A=A, D=D, merge=merge)
    actual = scan(x, steps, projected, routes, backend=backend)
    expected = torch.cat(
        [
            scan(x[i : i + 1], steps[i : i + 1], projected[i : i + 1], routes[i], backend="naive")
            for i in range(2)
        ]
    )
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@needs_kernel
def test_the_prepared_scan_has_them_too() -> None:
    routes = own_routes(3, 12, 12, 1)
    x, projected, *parameters = (
        t.float() for t in map_inputs(3, 3, 4, channels=9, states=4, rank=2, routes=1)
    )
    expected = ss2d(x, projected, routes, *parameters, backend="naive")
    actual = PackedScan(*parameters)(x, projected, routes)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_equal_routes_for_all_images_are_the_shared_ones() -> None:
    routes = scan_routes(4, 5)
    x, projected, *parameters = (
        t.float() for t in map_inputs(2, 4, 5, channels=12, states=2, rank=1)
    )
    shared = ss2d(x, projected, routes, *parameters)
    repeated = ss2d(x, projected, routes.expand(2, -1, -1).contiguous(), *parameters)
    assert torch.equal(shared, repeated)


def test_scatter_undoes_gather_along_own_routes() -> None:
    features = torch.randn(3, 12, 2)
    routes = own_routes(3, 12, 17, 2)
    back = scatter_routes(gather_routes(features, routes), routes, 12)
    assert torch.equal(back, features[:, None].expand_as(back))
    visited = routes.gather(2, step_of_pixel(routes, 12))
    assert torch.equal(visited, torch.arange(12, dtype=torch.int32).expand_as(visited))


def test_a_class_is_walked_through_in_raster_order() -> None:
    classes = torch.tensor([[2, 0, 2, 1, 0], [0, 0, 0, 0, 0]])
    assert class_route(classes).tolist() == [[[1, 4, 3, 0, 2]], [[0, 1, 2, 3, 4]]]


def test_routes_for_another_number_of_images_are_refused() -> None:
    x, projected, *parameters = map_inputs(2, 3, 4, channels=3, states=1, rank=1, routes=1)
    with pytest.raises(ShapeError, match="routes for 3 images and 2 images"):
        ss2d(x, projected, own_routes(3, 12, 12, 1), *parameters)
