"""The scan of the C++ kernel, registered as a differentiable PyTorch operator.

What it trades: the kernel exists only where a compiler built it, runs on the CPU in float32 (inputs
may be bfloat16 or float16) and is not differentiable twice. In return no permuted copy of the map,
no delta tensor and no state tape is ever written: the map is read along index tables, everything
from the projection of delta to the merge happens in registers, and the backward pass recomputes the
states from one saved every few steps.

Results have the same bits whenever the number of threads is the same; the forward pass, whatever
that number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qmamba.ops.native.handover import address, new
from qmamba.ops.native.library import load_kernel
from qmamba.ops.native.scan_call import PackedParameters, ScanCall, round_up
from qmamba.ops.scan.groups import groups_as_routes, routes_as_groups
from qmamba.ops.scan.operator import needs_gradient, register_scan


def supports(*tensors: Tensor | None) -> bool:
    """Whether these tensors can be handed to the kernel."""
    return all(t is None or (t.device.type == "cpu" and t.dtype != torch.float64) for t in tensors)


def _scan_call(
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
    # Parameters that come with a given delta are made for one call.
    pack = PackedParameters.kept if delta is None else PackedParameters.pack
    parameters = pack(dt_weight, dt_bias, A, D, merge)
    scan = ScanCall(x, projected, order, parameters, merge=merge, softplus=softplus)
    if delta is not None:
        scan.use_delta(delta)
    return scan


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
    kernel = load_kernel()
    scan = _scan_call(x, projected, order, dt_weight, dt_bias, A, D, delta, merge, softplus)
    y = new(*scan.map_shape, dtype=x.dtype)
    states = new(*scan.saved_shape(kernel.segment)) if save_states else new(0)
    scan.call.y = y.data_ptr()
    if save_states:
        scan.call.states_saved = states.data_ptr()
    kernel.run_scan(scan.call, backward=False)
    return y, states


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
    segments = -(-steps // load_kernel().segment)
    shape = (batch, routes, segments, A.shape[2], round_up(channels)) if save_states else (0,)
    return y, x.new_empty(shape, dtype=torch.float32)


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
    kernel = load_kernel()
    scan = _scan_call(x, projected, order, dt_weight, dt_bias, A, D, delta, merge, softplus)
    call = scan.call
    grad = grad.contiguous()
    call.grad_y = address("grad", grad, scan.map_shape, x.dtype)
    call.states_saved = address("states", states, scan.saved_shape(kernel.segment))
    grad_x, grad_projected = new(*x.shape, dtype=x.dtype), new(*projected.shape)
    call.grad_x, call.grad_projected = grad_x.data_ptr(), grad_projected.data_ptr()
    grad_delta = new(0)
    if delta is not None:
        grad_delta = new(*delta.shape)
        call.grad_delta = grad_delta.data_ptr()
    # Per image and padded; the kernel adds to them.
    rows = (call.batch, call.routes)
    weight, bias, decay, skip = (
        new(*rows, *rest, call.padded).zero_() for rest in ((call.rank,), (), (call.states,), ())
    )
    call.grad_dt_weight, call.grad_dt_bias = weight.data_ptr(), bias.data_ptr()
    call.grad_decay, call.grad_skip = decay.data_ptr(), skip.data_ptr()
    kernel.run_scan(call, backward=True)
    weight, bias, decay, skip = (
        t.sum(0)[..., : call.channels] for t in (weight, bias, decay, skip)
    )
    return [
        grad_x,
        grad_projected,
        new(0),
        weight.transpose(1, 2).to(dt_weight.dtype).contiguous(),
        bias.to(dt_bias.dtype).contiguous(),
        decay.transpose(1, 2).to(A.dtype).contiguous(),
        skip.to(D.dtype).contiguous(),
        grad_delta,
    ]


_scan = register_scan(
    "scan_forward",
    "Tensor x, Tensor projected, Tensor order, Tensor dt_weight, Tensor dt_bias, Tensor A, "
    "Tensor D, Tensor? delta, bool merge, bool softplus",
    _forward,
    _empty,
    _backward,
)


def _kernel_dtype(tensor: Tensor) -> Tensor:
    """float32 or bfloat16, contiguous."""
    if tensor.dtype not in (torch.float32, torch.bfloat16):
        tensor = tensor.float()
    return tensor.contiguous()


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
        ShapeError: a tensor does not fit the others.
    """
    y, _ = _scan(
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
        needs_gradient(x, projected, dt_weight, dt_bias, A, D),
    )
    return y.to(x.dtype)


def ss2d_given_delta_native(
    x: Tensor,
    delta: Tensor,
    projected: Tensor,
    routes: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    merge: bool = True,
) -> Tensor:
    """The 2-D scan with given delta; see :mod:`qmamba.ops.scan.given_delta` for the arguments.

    Raises:
        BackendError: the kernel was not built or does not load.
        ShapeError: a tensor does not fit the others.
    """
    y, _ = _scan(
        _kernel_dtype(x),
        projected.float().contiguous(),
        routes.contiguous(),
        A.new_zeros(*dt_bias.shape, 0),
        dt_bias,
        A,
        D,
        delta.float().contiguous(),
        merge,
        True,
        needs_gradient(x, delta, projected, dt_bias, A, D),
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
        ShapeError: a tensor does not fit the others.
    """
    scan = groups_as_routes(u, delta, A, B, C, D, delta_bias)
    y, _ = _scan(
        _kernel_dtype(scan.x),
        scan.projected.float(),
        *scan[2:-1],
        scan.delta.float(),
        False,
        delta_softplus,
        needs_gradient(u, delta, A, B, C, D, delta_bias),
    )
    return routes_as_groups(y).to(u.dtype)
