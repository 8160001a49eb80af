"""The selective scan on a GPU: Triton kernels as torch operators.

Launches :mod:`qmamba.ops.triton.kernels` and :mod:`qmamba.ops.triton.segments`, where the algorithm
and its trade-offs are told. Triton itself is imported at the first call, so this module can be
imported where there is none.

The state and all arithmetic are float32. Maps, per-route partial maps and their gradients have the
dtype of ``x``. With float32 maps the low-rank products run on the tensor cores as three products of
tf32 parts, which keeps float32 precision; with half-precision maps as one tf32 product.

Results have the same bits in every run with the same kernel configuration, which a rule chooses
(:mod:`qmamba.ops.triton.choices`), or trial runs where ``QMAMBA_AUTOTUNE=1`` asks for them.

Beyond its arguments and results, a forward pass needs one map per route in the dtype of ``x``; for
training it keeps one float32 state per route, channel and state in every 16 steps (32 from 3 states
on). A backward pass needs another map per route, and per 64 or 128 channels one float32 copy of the
projection's gradient.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.ops.scan.groups import groups_as_routes, routes_as_groups
from qmamba.ops.scan.operator import needs_gradient, register_scan
from qmamba.ops.triton.launch import Scan, empty_states, on_device, save_steps

# The first release whose autotuner keeps its choices on disk.
_LEAST_TRITON = (3, 4)
# The first NVIDIA GPUs that Triton supports and whose tensor cores multiply tf32.
_LEAST_CAPABILITY = (8, 0)


def interpreted() -> bool:
    """Whether Triton's interpreter is asked for, which runs kernels on the CPU, slowly."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


@cache
def _installed_version() -> tuple[int, ...] | None:
    if importlib.util.find_spec("triton") is None:
        return None
    for name in ("triton", "pytorch-triton", "pytorch-triton-rocm", "triton-windows"):
        with contextlib.suppress(PackageNotFoundError):
            return tuple(int(part) for part in version(name).split("+")[0].split(".")[:2])
    return _LEAST_TRITON


def unavailable_reason(device: str) -> str | None:
    """Why the kernels cannot run on this kind of device, or None if they can."""
    if device == "cpu" and not interpreted():
        return "Triton kernels run on a GPU"
    installed = _installed_version()
    if installed is None:
        return "Triton is not installed"
    if installed < _LEAST_TRITON:
        found, least = (".".join(map(str, v)) for v in (installed, _LEAST_TRITON))
        return f"Triton {found} is installed, and {least} or later is needed"
    capability = _capability() if device == "cuda" else None
    if capability is not None and capability < _LEAST_CAPABILITY:
        found, least = (".".join(map(str, v)) for v in (capability, _LEAST_CAPABILITY))
        return f"the GPU has compute capability {found}, and Triton needs {least}"
    return None


def _capability() -> tuple[int, int] | None:
    """Of the current NVIDIA GPU; None for other makers."""
    if torch.version.hip is not None or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_capability()


def supports(*tensors: Tensor | None) -> bool:
    """Whether these tensors can be handed to the kernels."""
    return all(t is None or t.dtype != torch.float64 for t in tensors)


def _forward(
    x: Tensor,
    projected: Tensor,
    order: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    delta: Tensor | None,
    merge: bool,
    softplus: bool,
    save_states: bool,
) -> tuple[Tensor, Tensor]:
    with on_device(x):
        scan = Scan(x, projected, order, dt_weight, dt_bias, A, D, delta, merge, softplus)
        return scan.forward(save_states)


def _empty(
    x: Tensor,
    projected: Tensor,
    order: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    delta: Tensor | None,
    merge: bool,
    softplus: bool,
    save_states: bool,
) -> tuple[Tensor, Tensor]:
    batch, pixels, channels = x.shape[0], x.shape[-2], x.shape[-1]
    routes, steps = order.shape[-2:]
    y = x.new_empty((batch, pixels, channels) if merge else (batch, routes, pixels, channels))
    save = save_steps(A.shape[2]) if save_states else 0
    return y, empty_states(x, routes, steps, A.shape[2], save)


def _backward(
    grad: Tensor,
    x: Tensor,
    projected: Tensor,
    order: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    delta: Tensor | None,
    merge: bool,
    softplus: bool,
    states: Tensor,
) -> list[Tensor]:
    with on_device(x):
        scan = Scan(x, projected, order, dt_weight, dt_bias, A, D, delta, merge, softplus)
        gradients = scan.backward(grad.contiguous(), states)
    grad_x, grad_projected, *of_parameters, grad_delta = gradients
    parameters = (dt_weight, dt_bias, A, D)
    of_parameters = [g.to(t.dtype) for g, t in zip(of_parameters, parameters, strict=True)]
    no_gradient = x.new_empty(0, dtype=torch.float32)
    if delta is None:
        grad_delta = x.new_empty(0, dtype=torch.float32)
    return [grad_x, grad_projected, no_gradient, *of_parameters, grad_delta]


_scan = register_scan(
    "triton_scan",
    "Tensor x, Tensor projected, Tensor order, Tensor dt_weight, Tensor dt_bias, Tensor A, "
    "Tensor D, Tensor? delta, bool merge, bool softplus",
    _forward,
    _empty,
    _backward,
)


def ss2d_triton(
    x: Tensor,
    projected: Tensor,
    routes: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    merge: bool = True,
) -> Tensor:
    """The fused 2-D scan; see :func:`qmamba.ops.ss2d` for the arguments.

    Raises:
        BackendError: Triton is missing or too old.
    """
    if dt_weight.shape[2] == 0:
        # The kernels take a rank of zero as a sign that the time steps come ready-made.
        dt_weight, projected = F.pad(dt_weight, (0, 1)), F.pad(projected, (1, 0))
    y, _ = _scan(
        x,
        projected,
        routes,
        dt_weight,
        dt_bias,
        A,
        D,
        None,
        merge,
        True,
        needs_gradient(x, projected, dt_weight, dt_bias, A, D),
    )
    return y


def selective_scan_triton(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """Selective scan along the last axis; see :func:`qmamba.ops.selective_scan` for the arguments.

    The groups of B and C become routes that all run straight ahead, each over its own channels, so
    the 2-D kernel serves here too, on channel-last copies.

    Raises:
        BackendError: Triton is missing or too old.
    """
    scan = groups_as_routes(u, delta, A, B, C, D, delta_bias)
    saves = needs_gradient(u, delta, A, B, C, D, delta_bias)
    y, _ = _scan(*scan, False, delta_softplus, saves)
    return routes_as_groups(y)
