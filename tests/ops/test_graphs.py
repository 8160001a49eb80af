"""The scan in recorded graphs and under the transforms of ``torch.func``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from qmamba.errors import BackendError
from qmamba.ops import backends, selective_scan, ss2d
from tests.ops.cases import map_inputs, route_tables, scan_inputs

BACKENDS = [
    row.name
    for row in backends()
    if row.device == "cpu" and row.available and row.name in ("native", "chunked")
]


class MapScan(nn.Module):
    """Frozen parameters, so that nothing needs a gradient while a graph is recorded."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.x, *parameters = (t.float() for t in map_inputs(1, 4, 4, 16, 2, 1))
        self.parameters_ = nn.ParameterList(
            [nn.Parameter(parameter, requires_grad=False) for parameter in parameters]
        )
        self.routes, self.backend = route_tables(4, 4), backend

    def forward(self, x: Tensor) -> Tensor:
        projected, *rest = self.parameters_
        return ss2d(x, projected, self.routes, *rest, backend=self.backend)


class SequenceScan(nn.Module):
    """The same in one dimension."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.x, *self.rest = (t.float() for t in scan_inputs(1, 8, 12, 2, 2))
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        return selective_scan(x, *self.rest, True, backend=self.backend)


def loss(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x).square().sum()


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(loss(function)(leaf), leaf)[0]


def compiled(module: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    function = torch.compile(module, backend="aot_eager")
    with torch.no_grad():
        function(x)
    return function


RECORDERS: dict[str, Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]]] = {
    "export": lambda module, x: torch.export.export(module, (x,)).module(),
    "make_fx": lambda module, x: make_fx(module)(x),
    "trace": lambda module, x: torch.jit.trace(module, x),
    "compile": compiled,
}

both_scans = pytest.mark.parametrize("kind", [MapScan, SequenceScan])
all_backends = pytest.mark.parametrize("backend", BACKENDS)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("recorder", RECORDERS)
@both_scans
@all_backends
def test_a_graph_recorded_without_gradients_has_the_right_ones(
    recorder: str, kind: type[Any], backend: str
) -> None:
    module = kind(backend)
    expected = gradient(kind("naive"), module.x)
    actual = gradient(RECORDERS[recorder](module, module.x), module.x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@both_scans
@all_backends
def test_gradients_of_torch_func(kind: type[Any], backend: str) -> None:
    module, naive = kind(backend), kind("naive")
    x = torch.stack([module.x, 0.5 * module.x])
    expected = torch.stack([gradient(naive, entry) for entry in x])
    grad = torch.func.grad(loss(module))
    torch.testing.assert_close(grad(x[0]), expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.vmap(grad)(x), expected, rtol=1e-4, atol=1e-4)
    batched = torch.vmap(module)(x)
    torch.testing.assert_close(batched, torch.stack([module(entry) for entry in x]))


@pytest.mark.parametrize(
    "derivative",
    [
        lambda f, x: torch.func.hessian(f)(x),
        lambda f, x: torch.func.jvp(f, (x,), (x,)),
        lambda f, x: torch.autograd.functional.hvp(f, x, x),
    ],
    ids=["hessian", "jvp", "hvp"],
)
@both_scans
@all_backends
def test_other_derivatives_are_refused(derivative: Any, kind: type[Any], backend: str) -> None:
    module = kind(backend)
    with pytest.raises(BackendError, match="first derivatives backwards and no others"):
        derivative(loss(module), module.x)
    derivative(loss(kind("naive")), module.x)
