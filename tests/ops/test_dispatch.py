from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qmamba.errors import BackendError, ShapeError
from qmamba.ops import backends, selective_scan, ss2d
from qmamba.ops.native import library
from qmamba.ops.scan import dispatch
from qmamba.ops.triton import operators
from tests.ops.cases import map_inputs, route_tables, scan_inputs

CPU_BACKENDS = [
    name
    for name in ("naive", "chunked", "native")
    if dispatch._unavailable_reason(name, "cpu") is None
]


@pytest.fixture(autouse=True)
def no_forced_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dispatch.BACKEND_VARIABLE, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_every_backend_gives_the_recorded_scan(shared: Path, backend: str) -> None:
    cases = torch.load(shared / "parity" / "selective_scan.pt", weights_only=False)
    assert len(cases) == 3
    for case in cases:
        y = selective_scan(**case["args"], delta_softplus=True, backend=backend)
        torch.testing.assert_close(y, case["out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_every_backend_gives_the_same_map(backend: str) -> None:
    tensors = [t.float() for t in map_inputs(2, 6, 5, 20, 2, 2)]
    routes = route_tables(6, 5, 4)
    x, projected, *rest = tensors
    for merge in (True, False):
        expected = ss2d(x, projected, routes, *rest, merge=merge, backend="naive")
        actual = ss2d(x, projected, routes, *rest, merge=merge, backend=backend)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_variable_forces_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def spy(*tensors: Tensor) -> Tensor:
        called.append("naive")
        return tensors[0]

    monkeypatch.setitem(dispatch._SCANS, "naive", spy)
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, "naive")
    selective_scan(*(t.float() for t in scan_inputs(1, 4, 5, 1, 1)))
    assert called == ["naive"]
    assert [row.name for row in backends() if row.live and row.device == "cpu"] == ["naive"]


def test_unknown_and_unavailable_backends_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [t.float() for t in scan_inputs(1, 4, 5, 1, 1)]
    with pytest.raises(BackendError, match="'fastest' is unknown; choose one of naive"):
        selective_scan(*tensors, backend="fastest")
    with pytest.raises(BackendError, match=r"triton scan cannot run.*run on a GPU"):
        selective_scan(*tensors, backend="triton")
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, "gpu")
    with pytest.raises(BackendError, match="QMAMBA_BACKEND='gpu' is unknown"):
        selective_scan(*tensors)
    with pytest.raises(BackendError, match="QMAMBA_BACKEND='gpu' is unknown"):
        backends()


def test_forcing_the_native_kernel_on_float64_is_an_error() -> None:
    if library.unavailable_reason() is not None:
        pytest.skip("no native kernel")
    with pytest.raises(BackendError, match="float64"):
        selective_scan(*scan_inputs(1, 4, 5, 1, 1), backend="native")


def test_a_missing_kernel_warns_once_and_still_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "unavailable_reason", lambda: "it was not built")
    dispatch._warn_once.cache_clear()
    tensors = [t.float() for t in scan_inputs(1, 4, 5, 1, 1)]
    with pytest.warns(RuntimeWarning, match="it was not built.*qmamba backends"):
        y = selective_scan(*tensors)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        selective_scan(*tensors)
    torch.testing.assert_close(y, selective_scan(*tensors, backend="naive"))
    live = [row.name for row in backends() if row.live and row.device == "cpu"]
    assert live == ["chunked"]


def test_triton_is_live_on_a_gpu_alone_or_forced_in_its_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rows() -> dict[str, tuple[bool, bool, str]]:
        return {r.device: (r.available, r.live, r.detail) for r in backends() if r.name == "triton"}

    monkeypatch.setattr(operators, "_installed_version", lambda: (3, 6))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    no_device = "no CUDA or ROCm device is visible to torch"
    assert rows() == {
        "cpu": (False, False, "Triton kernels run on a GPU"),
        "cuda": (False, False, no_device),
    }
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    interpreted = "Triton kernels in the interpreter"
    assert rows()["cpu"] == (True, False, interpreted)
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, "triton")
    assert rows()["cpu"] == (True, True, interpreted)
    monkeypatch.delenv(dispatch.BACKEND_VARIABLE)
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(operators, "_capability", lambda: (9, 0))
    assert rows()["cuda"] == (True, True, "Triton kernels")
    monkeypatch.setattr(operators, "_installed_version", lambda: None)
    assert rows()["cuda"] == (False, False, "Triton is not installed")
    assert [r.name for r in backends() if r.device == "cuda" and r.live] == ["chunked"]


def test_backends_explains_every_row() -> None:
    rows = backends()
    assert {(row.name, row.device) for row in rows} == {
        (name, device) for name in dispatch.BACKENDS for device in ("cpu", "cuda")
    }
    assert all(row.detail for row in rows)
    assert sum(row.live for row in rows if row.device == "cpu") == 1


def test_scans_of_wrong_shape_are_refused_in_one_sentence() -> None:
    u, delta, A, B, C, D, bias = (t.float() for t in scan_inputs(2, 6, 7, 3, 2))
    broken = {
        "empty": (u[..., :0], delta[..., :0], A, B[..., :0], C[..., :0], D, bias),
        "delta must be": (u, delta[:1], A, B, C, D, bias),
        "A must be": (u, delta, A[:4], B, C, D, bias),
        "B must be": (u, delta, A, B[..., :3], C[..., :3], D, bias),
        "one shape": (u, delta, A, B, C[:, 0], D, bias),
        "do not divide": (u, delta, A, B.repeat(1, 2, 1, 1), C.repeat(1, 2, 1, 1), D, bias),
        "D must be": (u, delta, A, B, C, D[:2], bias),
        "delta_bias must be": (u, delta, A, B, C, D, bias[:, None]),
        "float tensor": (u.int(), delta, A, B, C, D, bias),
    }
    for message, tensors in broken.items():
        with pytest.raises(ShapeError, match=message):
            selective_scan(*tensors)


def test_maps_of_wrong_shape_are_refused_in_one_sentence() -> None:
    x, projected, weight, bias, A, D = (t.float() for t in map_inputs(1, 3, 4, 8, 2, 2))
    routes = route_tables(3, 4)
    broken = {
        "not empty": (x[:, :0], projected[:, :0], routes, weight, bias, A, D),
        "int32": (x, projected, routes.long(), weight, bias, A, D),
        "steps for": (x, projected, routes[:, :5], weight, bias, A, D),
        "projected must be": (x, projected[..., :4], routes, weight, bias, A, D),
        "dt_bias must be": (x, projected, routes, weight, bias[:, :3], A, D),
        "dt_weight must be": (x, projected, routes, weight[:, :3], bias, A, D),
        "D must be": (x, projected, routes, weight, bias, A, D[:2]),
    }
    for message, tensors in broken.items():
        with pytest.raises(ShapeError, match=message):
            ss2d(*tensors)


def test_gradients_pass_gradcheck_in_float64() -> None:
    x, projected, *rest = (t.requires_grad_() for t in map_inputs(1, 3, 2, 3, 2, 1))
    routes = route_tables(3, 2, 2)
    for merge in (True, False):
        for backend in ("naive", "chunked"):
            torch.autograd.gradcheck(
                lambda a, b, *c, m=merge, k=backend: ss2d(a, b, routes, *c, merge=m, backend=k),
                (x, projected, *rest),
            )
    scans = [t.requires_grad_() for t in scan_inputs(1, 4, 5, 2, 2)]
    for backend in ("naive", "chunked"):
        torch.autograd.gradcheck(
            lambda *t, k=backend: selective_scan(*t, delta_softplus=True, backend=k), scans
        )


def test_the_scan_compiles_and_exports() -> None:
    tensors = [t.float() for t in map_inputs(1, 4, 4, 16, 1, 1)]

    class Scan(torch.nn.Module):
        def forward(self, x: Tensor, projected: Tensor, *rest: Tensor) -> Tensor:
            return ss2d(x, projected, route_tables(4, 4), *rest) * 2

    eager = Scan()(*tensors)
    exported = torch.export.export(Scan(), tuple(tensors))
    torch.testing.assert_close(exported.module()(*tensors), eager)
    compiled = torch.compile(Scan(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*tensors), eager)
