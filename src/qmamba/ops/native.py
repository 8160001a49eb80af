"""The C++ kernel's door: one fused scan on the CPU, registered as a PyTorch operator.

What it trades: the kernel exists only where a compiler built it, runs on the CPU in float32 (inputs
may be bfloat16 or float16) and is not differentiable twice. In return no permuted copy of the map,
no dt tensor and no state tape is ever written: the map is read along index tables, everything from
the dt projection to the merge happens in registers, and the backward pass recomputes the states
from one saved every few steps.

The library has a plain C interface and is loaded with ctypes, so one build serves every torch and
Python version. It shares torch's own thread pool where libtorch exports it (torch >= 2.10), and
starts its own threads elsewhere; both follow ``torch.get_num_threads()``. Results have the same
bits whenever the number of threads is the same; the forward pass, whatever that number.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qmamba.errors import BackendError

LANES = {"baseline": 4, "avx2": 8, "avx512": 16}
_CHANNEL_MULTIPLE = 16
_KEPT_WORKSPACE_BYTES = 256 * 2**20
_POINTERS = (
    *("x", "projected", "delta", "order", "dt_weight", "dt_bias", "decay", "skip", "grad_y"),
    *("y", "states_saved", "grad_x", "grad_delta", "grad_projected", "grad_dt_weight"),
    *("grad_dt_bias", "grad_decay", "grad_skip", "workspace"),
)
_SIZES = ("batch", "pixels", "steps", "channels", "padded", "routes", "rank", "states")
_FLAGS = ("dtype", "shared", "merged", "softplus")


class _Call(ctypes.Structure):
    """Mirror of ``qmamba_scan`` in ``native/scan.h``."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in _POINTERS]
        + [(name, ctypes.c_int64) for name in _SIZES]
        + [(name, ctypes.c_int32) for name in _FLAGS]
    )


class _Kernel:
    """The loaded library, the thread pool it shares, and the instruction set in use."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        for name in ("qmamba_forward", "qmamba_backward"):
            function = getattr(library, name)
            function.argtypes = [
                ctypes.POINTER(_Call),
                ctypes.c_void_p,
                ctypes.c_int32,
                ctypes.c_int32,
            ]
            function.restype = None
        library.qmamba_workspace.argtypes = [
            ctypes.POINTER(_Call),
            ctypes.c_int32,
            ctypes.c_int32,
        ]
        library.qmamba_workspace.restype = ctypes.c_int64
        library.qmamba_segment.restype = ctypes.c_int64
        self.segment = int(library.qmamba_segment())
        self.torch_pool = _torch_parallel_for()
        self.lanes = _choose_lanes(int(library.qmamba_lanes()))
        self._kept = threading.local()

    @property
    def instruction_set(self) -> str:
        return next(name for name, lanes in LANES.items() if lanes == self.lanes)

    def run(self, name: str, call: _Call) -> None:
        """Fill in the workspace and run one pass."""
        threads = torch.get_num_threads()
        backward = name == "qmamba_backward"
        size = int(self.library.qmamba_workspace(ctypes.byref(call), threads, backward))
        workspace = self._workspace(size)
        call.workspace = workspace.data_ptr()
        getattr(self.library, name)(ctypes.byref(call), self.torch_pool, threads, self.lanes)

    def _workspace(self, size: int) -> Tensor:
        # Fresh large blocks cost a page fault per page on each call.
        kept: Tensor | None = getattr(self._kept, "workspace", None)
        if kept is not None and kept.numel() >= size:
            return kept
        workspace = torch.empty(size, dtype=torch.uint8)
        if size <= _KEPT_WORKSPACE_BYTES:
            self._kept.workspace = workspace
        return workspace


def _torch_parallel_for() -> ctypes.c_void_p | None:
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        if (folder / name).exists():
            try:
                function = ctypes.CDLL(str(folder / name)).torch_parallel_for
            except (OSError, AttributeError):
                return None
            return ctypes.cast(function, ctypes.c_void_p)
    return None


def _choose_lanes(widest: int) -> int:
    asked = os.environ.get("QMAMBA_INSTRUCTION_SET")
    if not asked:
        return widest
    if asked not in LANES or LANES[asked] > widest:
        here = ", ".join(name for name, lanes in LANES.items() if lanes <= widest)
        raise BackendError(
            f"QMAMBA_INSTRUCTION_SET={asked} cannot run on this processor; choose one of {here}."
        )
    return LANES[asked]


@cache
def _load() -> _Kernel | str:
    """The kernel, or one sentence that says why there is none."""
    # An editable install keeps the compiled file apart from the sources.
    for folder in sys.modules["qmamba.ops"].__path__:
        for name in ("libqmamba_scan.so", "libqmamba_scan.dylib"):
            path = Path(folder) / name
            if path.exists():
                try:
                    return _Kernel(ctypes.CDLL(str(path)))
                except OSError as error:
                    return f"the compiled kernel does not load on this machine ({error})"
    return (
        "the C++ kernel was not built at installation; install a C++ compiler (GCC or Clang) and "
        "reinstall"
    )


def unavailable_reason() -> str | None:
    """Why the native kernel cannot run here, or None if it can."""
    kernel = _load()
    return kernel if isinstance(kernel, str) else None


def _kernel() -> _Kernel:
    kernel = _load()
    if isinstance(kernel, str):
        raise BackendError(f"The native scan is not available: {kernel}.")
    return kernel


def instruction_set() -> str:
    """``baseline``, ``avx2`` or ``avx512``: the variant in use."""
    return _kernel().instruction_set


def shares_torch_threads() -> bool:
    """Whether the kernel runs on torch's thread pool rather than on threads of its own."""
    return _kernel().torch_pool is not None


def supports(*tensors: Tensor | None) -> bool:
    """Whether these tensors can be handed to the kernel."""
    return all(t is None or (t.device.type == "cpu" and t.dtype != torch.float64) for t in tensors)


def _round_up(channels: int) -> int:
    return (channels + _CHANNEL_MULTIPLE - 1) // _CHANNEL_MULTIPLE * _CHANNEL_MULTIPLE


def _padded(parameter: Tensor) -> Tensor:
    """float32, contiguous, last axis zero-padded to the multiple that the kernel reads."""
    missing = -parameter.shape[-1] % _CHANNEL_MULTIPLE
    return torch.nn.functional.pad(parameter.float(), (0, missing)).contiguous()


class _Scan:
    """One call's description together with the packed tensors that it points into."""

    def __init__(
        self,
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
    ) -> None:
        self._held: list[Tensor] = []
        self.call = _Call(
            batch=x.shape[0],
            pixels=x.shape[-2],
            steps=order.shape[1],
            channels=x.shape[-1],
            padded=_round_up(x.shape[-1]),
            routes=order.shape[0],
            rank=dt_weight.shape[2],
            states=A.shape[2],
            dtype=int(x.dtype == torch.bfloat16),
            shared=int(x.dim() == 3),
            merged=int(merge),
            softplus=int(softplus),
        )
        self.point(
            x=x,
            projected=projected,
            order=order,
            dt_weight=_padded(dt_weight.transpose(1, 2)),
            dt_bias=_padded(dt_bias),
            decay=_padded(A.transpose(1, 2) / math.log(2)),
            skip=_padded(D.sum(0) if merge else D),
        )
        if delta is not None:
            self.point(delta=delta)

    def point(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            assert tensor.is_contiguous(), name
            self._held.append(tensor)
            setattr(self.call, name, tensor.data_ptr())


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
    kernel = _kernel()
    scan = _Scan(x, projected, order, dt_weight, dt_bias, A, D, delta, merge, softplus)
    y, states = _empty_results(x, order, A, merge, save_states, kernel.segment)
    scan.point(y=y)
    if save_states:
        scan.point(states_saved=states)
    kernel.run("qmamba_forward", scan.call)
    return y, states


def _empty_results(
    x: Tensor, order: Tensor, A: Tensor, merge: bool, save_states: bool, segment: int
) -> tuple[Tensor, Tensor]:
    batch, pixels, channels = x.shape[0], x.shape[-2], x.shape[-1]
    routes, steps = order.shape
    y = x.new_empty((batch, pixels, channels) if merge else (batch, routes, pixels, channels))
    segments = (steps + segment - 1) // segment
    shape = (batch, routes, segments, A.shape[2], _round_up(channels)) if save_states else (0,)
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
    return _empty_results(x, order, A, merge, save_states, _kernel().segment)


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
    kernel = _kernel()
    scan = _Scan(x, projected, order, dt_weight, dt_bias, A, D, delta, merge, softplus)
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
    kernel.run("qmamba_backward", scan.call)
    return results


def _empty_gradients(
    x: Tensor, projected: Tensor, dt_weight: Tensor, A: Tensor, delta: Tensor | None
) -> list[Tensor]:
    batch, (routes, channels, states), rank = x.shape[0], A.shape, dt_weight.shape[2]
    padded = _round_up(channels)
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
    batch, channels, length = u.shape
    B, C = (m if m.dim() == 4 else m[:, None] for m in (B, C))
    groups = B.shape[1]

    def channel_last(tensor: Tensor) -> Tensor:
        return tensor.reshape(batch, groups, -1, length).transpose(2, 3)

    def grouped(parameter: Tensor | None) -> Tensor:
        if parameter is None:
            return A.new_zeros(groups, channels // groups)
        return parameter.reshape(groups, -1)

    order = torch.arange(length, dtype=torch.int32).expand(groups, length).contiguous()
    per_group = channels // groups
    y, _ = _forward(
        _kernel_dtype(channel_last(u)),
        torch.cat([B, C], dim=2).float().permute(0, 3, 1, 2).contiguous(),
        order,
        A.new_zeros(groups, per_group, 0),
        grouped(delta_bias),
        A.reshape(groups, per_group, -1),
        grouped(D),
        channel_last(delta).float().contiguous(),
        False,
        delta_softplus,
        _needs_gradient(u, delta, A, B, C, D, delta_bias),
    )
    return y.transpose(2, 3).reshape(batch, channels, length).to(u.dtype)
