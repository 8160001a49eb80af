"""The scan of the C++ kernel, registered as a differentiable PyTorch operator.

What it trades: the kernel exists only where a compiler built it, runs on the CPU in float32 (inputs
may be bfloat16 or float16) and is not differentiable twice. In return no permuted copy of the map,
no dt tensor and no state tape is ever written: the map is read along index tables, everything from
the dt projection to the merge happens in registers, and the backward pass recomputes the states
from one saved every few steps.

Results have the same bits whenever the number of threads is the same; the forward pass, whatever
that number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qmamba.ops.native.library import PackedParameters, ScanCall, load_kernel, round_up
from qmamba.ops.scan.groups import groups_as_routes, routes_as_groups


def supports(*tensors: Tensor | None) -> bool:
    """Whether these tensors can be handed to the kernel."""
    return all(t is None or (t.device.type == "cpu" and t.dtype != torch.float64) for t in tensors)


def _describe(
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
) -> ScanCall:
    parameters = PackedParameters.pack(dt_weight, dt_bias, A, D, merge)
    scan = ScanCall(x, projected, order, parameters, merge=merge, softplus=softplus)
    if delta is not None:
        scan.point(delta=delta)
    return scan


@torch.library.custom_op("qmamba::scan_forward", mutates_args=())
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
    library = load_kernel()
    scan = _describe(x, projected, order, dt_weight, dt_bias, A, D, delta, merge, softplus)
    y, states = _empty_results(x, order, A, merge, save_states, library.segment)
    scan.point(y=y)
    if save_states:
        scan.point(states_saved=states)
    library.run("qmamba_forward", scan.call)
    return y, states


def _empty_results(
    x: Tensor, order: Tensor, A: Tensor, merge: bool, save_states: bool, segment: int
) -> tuple[Tensor, Tensor]:
    batch, pixels, channels = x.shape[0], x.shape[-2], x.shape[-1]
    routes, steps = order.shape[-2:]
    y = x.new_empty((batch, pixels, channels) if merge else (batch, routes, pixels, channels))
    segments = (steps + segment - 1) // segment
    shape = (batch, routes, segments, A.shape[2], round_up(channels)) if save_states else (0,)
    return y, x.new_empty(shape, dtype=torch.float32)


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
    return _empty_results(x, order, A, merge, save_states, load_kernel().segment)


@torch.library.custom_op("qmamba::scan_backward", mutates_args=())
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
    """Gradients of x, projected and delta, and of the four parameters per image and padded."""
    library = load_kernel()
    scan = _describe(x, projected, order, dt_weight, dt_bias, A, D, delta, merge, softplus)
    results = _empty_gradients(x, projected, dt_weight, A, delta)
    grad_x, grad_projected, grad_delta, *parameters = results
    grad_weight, grad_bias, grad_decay, grad_skip = (t.zero_() for t in parameters)
    scan.point(
        grad_y=grad_y.contiguous(),
        states_saved=states,
        grad_x=grad_x,
        grad_projected=grad_projected,
        grad_dt_weight=grad_weight,
        grad_dt_bias=grad_bias,
        grad_decay=grad_decay,
        grad_skip=grad_skip,
    )
    if delta is not None:
        scan.point(grad_delta=grad_delta)
    library.run("qmamba_backward", scan.call)
    return results


def _empty_gradients(
    x: Tensor, projected: Tensor, dt_weight: Tensor, A: Tensor, delta: Tensor | None
) -> list[Tensor]:
    batch, (routes, channels, states), rank = x.shape[0], A.shape, dt_weight.shape[2]
    padded = round_up(channels)
    return [
        torch.empty_like(x),
        torch.empty_like(projected),
        projected.new_empty(0) if delta is None else torch.empty_like(delta),
        projected.new_empty((batch, routes, rank, padded)),
        projected.new_empty((batch, routes, padded)),
        projected.new_empty((batch, routes, states, padded)),
        projected.new_empty((batch, routes, padded)),
    ]


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
    return _empty_gradients(x, projected, dt_weight, A, delta)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.merge, ctx.softplus, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad_y: Tensor, _grad_states: Tensor) -> tuple[Tensor | None, ...]:
    x, projected, order, dt_weight, dt_bias, A, D, delta, states = ctx.saved_tensors
    channels = x.shape[-1]
    grad_x, grad_projected, grad_delta, *parameters = _backward(
        grad_y,
        x,
        projected,
        order,
        dt_weight,
        dt_bias,
        A,
        D,
        delta,
        states,
        ctx.merge,
        ctx.softplus,
    )
    weight, bias, decay, skip = (t.sum(0)[..., :channels] for t in parameters)
    return (
        grad_x,
        grad_projected,
        None,
        weight.transpose(1, 2).to(dt_weight.dtype),
        bias.to(dt_bias.dtype),
        decay.transpose(1, 2).to(A.dtype),
        skip.to(D.dtype),
        None if delta is None else grad_delta,
        None,
        None,
        None,
    )


_forward.register_autograd(_differentiate, setup_context=_save_for_backward)


def _kernel_dtype(tensor: Tensor) -> Tensor:
    """float32 or bfloat16, contiguous."""
    if tensor.dtype not in (torch.float32, torch.bfloat16):
        tensor = tensor.float()
    return tensor.contiguous()


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def ss2d_native(
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
        BackendError: the kernel was not built or does not load.
    """
    y, _ = _forward(
        _kernel_dtype(x),
        projected.float().contiguous(),
        routes.contiguous(),
        dt_weight,
        dt_bias,
        A,
        D,
        None,
        merge,
        True,
        _needs_gradient(x, projected, dt_weight, dt_bias, A, D),
    )
    return y.to(x.dtype)


def ss2d_given_steps_native(
    x: Tensor,
    steps: Tensor,
    projected: Tensor,
    routes: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    merge: bool = True,
) -> Tensor:
    """The 2-D scan with given time steps; see :mod:`qmamba.ops.scan.given_delta` for the arguments.

    Raises:
        BackendError: the kernel was not built or does not load.
    """
    y, _ = _forward(
        _kernel_dtype(x),
        projected.float().contiguous(),
        routes.contiguous(),
        A.new_zeros(*dt_bias.shape, 0),
        dt_bias,
        A,
        D,
        steps.float().contiguous(),
        merge,
        True,
        _needs_gradient(x, steps, projected, dt_bias, A, D),
    )
    return y.to(x.dtype)


def selective_scan_native(
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
    the 2-D kernel serves here too.

    Raises:
        BackendError: the kernel was not built or does not load.
    """
    scan = groups_as_routes(u, delta, A, B, C, D, delta_bias)
    y, _ = _forward(
        _kernel_dtype(scan.x),
        scan.projected.float(),
        *scan[2:-1],
        scan.delta.float(),
        False,
        delta_softplus,
        _needs_gradient(u, delta, A, B, C, D, delta_bias),
    )
    return routes_as_groups(y).to(u.dtype)
