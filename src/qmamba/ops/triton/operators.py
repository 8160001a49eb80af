"""The selective scan on a GPU: Triton kernels as torch operators.

Launches :mod:`qmamba.ops.triton.kernels` and :mod:`qmamba.ops.triton.segments`, where the algorithm
and its trade-offs are told. Triton itself is imported at the first call, so this module can be
imported where there is none.

The state and all arithmetic are float32. Maps, per-route partial maps and their gradients have the
dtype of ``x``. With float32 maps the low-rank products run on the tensor cores as three products of
tf32 parts, which keeps float32 precision; with half-precision maps as one tf32 product.

Results have the same bits in every run with the same kernel configuration. The configuration is
chosen by timing, once per kind of call, and kept on disk.

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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.ops.scan.groups import groups_as_routes, routes_as_groups
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


@torch.library.custom_op("qmamba::triton_scan", mutates_args=())
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


@_forward.register_fake
def _(
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


@torch.library.custom_op("qmamba::triton_scan_backward", mutates_args=())
def _backward(
    grad_y: Tensor,
    x: Tensor,
    projected: Tensor,
    order: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    delta: Tensor | None,
    states: Tensor,
    merge: bool,
    softplus: bool,
) -> list[Tensor]:
    """Gradients of x, projected, dt_weight, dt_bias, A, D and delta; parameters' in float32."""
    with on_device(x):
        scan = Scan(x, projected, order, dt_weight, dt_bias, A, D, delta, merge, softplus)
        return scan.backward(grad_y.contiguous(), states)


@_backward.register_fake
def _(
    grad_y: Tensor,
    x: Tensor,
    projected: Tensor,
    order: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    delta: Tensor | None,
    states: Tensor,
    merge: bool,
    softplus: bool,
) -> list[Tensor]:
    return [
        x.new_empty(x.shape),
        projected.new_empty(projected.shape),
        *(t.new_empty(t.shape, dtype=torch.float32) for t in (dt_weight, dt_bias, A, D)),
        x.new_empty(0, dtype=torch.float32) if delta is None else delta.new_empty(delta.shape),
    ]


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.merge, ctx.softplus, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad_y: Tensor, _grad_states: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, states = ctx.saved_tensors
    gradients = _backward(grad_y, *inputs, states, ctx.merge, ctx.softplus)
    grad_x, grad_projected, *parameters, grad_delta = gradients
    *given, delta = inputs[3:]
    parameters = [grad.to(t.dtype) for grad, t in zip(parameters, given, strict=True)]
    grad_delta = None if delta is None else grad_delta
    return (grad_x, grad_projected, None, *parameters, grad_delta, None, None, None)


_forward.register_autograd(_differentiate, setup_context=_save_for_backward)


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


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
    y, _ = _forward(
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
        _needs_gradient(x, projected, dt_weight, dt_bias, A, D),
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
    saves = _needs_gradient(u, delta, A, B, C, D, delta_bias)
    y, _ = _forward(*scan, False, delta_softplus, saves)
    return routes_as_groups(y)
