from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qmamba.ops.native import library
from qmamba.ops.native.prepared_scan import PackedScan
from qmamba.ops.scan.naive import ss2d_naive
from tests.ops.cases import map_inputs, route_tables

pytestmark = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)


@pytest.mark.parametrize("lanes", sorted(library.LANES.values()))
@pytest.mark.parametrize("channels", [5, 16, 40, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_norm_equals_scan_then_norm(
    lanes: int, channels: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = library.load_kernel()
    if lanes > loaded.library.qmamba_lanes():
        pytest.skip("this processor has no such lanes")
    monkeypatch.setattr(loaded, "lanes", lanes)
    x, projected, *parameters = (t.float() for t in map_inputs(2, 5, 7, channels, 2, 1))
    x = x.to(dtype)
    norm = nn.LayerNorm(channels, eps=1e-4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    routes = route_tables(5, 7, 4)
    actual = PackedScan(*parameters, norm=norm)(x, projected, routes)
    merged = ss2d_naive(x.float(), projected, routes, *parameters)
    expected = F.layer_norm(merged, (channels,), norm.weight, norm.bias, norm.eps)
    tolerance = 1e-4 if dtype == torch.float32 else 6e-2
    torch.testing.assert_close(actual.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("merge", [True, False])
def test_packed_parameters_give_the_scan(merge: bool) -> None:
    x, projected, *parameters = (t.float() for t in map_inputs(1, 6, 5, 24, 1, 3))
    routes = route_tables(6, 5)
    actual = PackedScan(*parameters, merge=merge)(x, projected, routes)
    expected = ss2d_naive(x, projected, routes, *parameters, merge)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
