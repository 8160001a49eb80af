from __future__ import annotations

import gc
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qmamba.ops import ss2d
from qmamba.ops.native import library, scan_call
from qmamba.ops.native.prepared_scan import PackedScan
from qmamba.ops.native.scan_call import PackedParameters
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


def test_parameters_are_packed_once_and_again_after_every_edit() -> None:
    x, projected, *parameters = (t.float() for t in map_inputs(1, 6, 5, 24, 2, 3))
    weight, bias, A, D = parameters
    routes = route_tables(6, 5)

    def scanned() -> torch.Tensor:
        found = ss2d(x, projected, routes, weight, bias, A, D, backend="native")
        expected = ss2d_naive(x, projected, routes, weight, bias, A, D)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        return found

    first = scanned()
    kept = PackedParameters.kept(*parameters, True)
    assert PackedParameters.kept(weight, bias.clone(), A.clone(), D.clone(), True) is kept
    assert PackedParameters.kept(*parameters, False) is not kept
    # Neither of these moves a version counter.
    weight.data.mul_(1.5)
    A.numpy()[0, 0] -= 1
    assert not torch.equal(scanned(), first)
    strided = A.transpose(1, 2).contiguous().transpose(1, 2)
    kept = PackedParameters.kept(weight, bias, A, D, True)
    assert PackedParameters.kept(weight, bias, strided, D, True) is kept
    D.data = D + 1
    bias[0] += 1
    scanned()


def test_packed_parameters_go_with_their_tensor() -> None:
    parameters = [t.float() for t in map_inputs(1, 6, 5, 24, 2, 3)[2:]]
    before = len(scan_call._PACKED)
    PackedParameters.kept(*parameters, True)
    PackedParameters.kept(*parameters, False)
    assert len(scan_call._PACKED) == before + 2
    del parameters
    gc.collect()
    assert len(scan_call._PACKED) == before


def test_gradients_do_not_depend_on_what_was_packed_before() -> None:
    x, projected, *parameters = (t.float() for t in map_inputs(1, 6, 5, 24, 2, 3))
    routes = route_tables(6, 5)
    weight = parameters[0].requires_grad_()
    for _ in range(2):
        gradient = []
        for scan in (partial(ss2d, backend="native"), ss2d_naive):
            (found,) = torch.autograd.grad(
                scan(x, projected, routes, *parameters).square().sum(), weight
            )
            gradient.append(found)
        torch.testing.assert_close(*gradient, rtol=1e-3, atol=1e-3)
        with torch.no_grad():
            weight -= 0.01 * gradient[0] / gradient[0].abs().max()
