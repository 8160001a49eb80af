"""Which scan implementation runs, and the two operators that everybody else calls."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from qmamba.errors import BackendError, ShapeError
from qmamba.ops.native import library, scan
from qmamba.ops.scan.chunked import selective_scan_chunked, ss2d_chunked
from qmamba.ops.scan.naive import selective_scan_naive, ss2d_naive
from qmamba.ops.triton import operators

BACKENDS = ("naive", "chunked", "native", "triton")
BACKEND_VARIABLE = "QMAMBA_BACKEND"


@dataclass(frozen=True)
class BackendStatus:
    """One implementation on one kind of device."""

    name: str
    device: str
    """``cpu`` or ``cuda``."""
    available: bool
    live: bool
    """Whether it is the one that runs by default on this device."""
    detail: str
    """What it runs on, or why it cannot run."""


def backends() -> list[BackendStatus]:
    """Every implementation on the CPU and on the GPU: which is live, which is not, and why.

    Raises:
        BackendError: ``QMAMBA_BACKEND`` names an unknown implementation.
    """
    forced = _forced_backend(None)
    rows = []
    for device in ("cpu", "cuda"):
        reasons = {name: _unavailable_reason(name, device) for name in BACKENDS}
        if forced is not None:
            live = forced if reasons[forced] is None else None
        else:
            live = next((n for n in _preference(device) if reasons[n] is None), None)
        for name in BACKENDS:
            reason = reasons[name]
            rows.append(
                BackendStatus(
                    name=name,
                    device=device,
                    available=reason is None,
                    live=name == live,
                    detail=_describe(name) if reason is None else reason,
                )
            )
    return rows


def _preference(device: str) -> tuple[str, ...]:
    return ("native", "chunked") if device == "cpu" else ("triton", "chunked")


def _describe(name: str) -> str:
    if name == "native":
        threads = torch.get_num_threads()
        pool = "torch's own" if library.shares_torch_threads() else "its own"
        return f"C++ kernel, {library.instruction_set()}, {threads} threads ({pool})"
    return {
        "naive": "one step at a time: the definition, for tests",
        "chunked": "pure PyTorch, any device",
        "triton": "Triton kernels" + (" in the interpreter" if operators.interpreted() else ""),
    }[name]


def kernel_is_live() -> bool:
    """Whether the C++ kernel is what runs on the CPU now.

    Raises:
        BackendError: ``QMAMBA_BACKEND`` names an unknown implementation.
    """
    wanted = ("native", "cpu", True)
    return any((row.name, row.device, row.live) == wanted for row in backends())


@torch.compiler.assume_constant_result
def _unavailable_reason(name: str, device: str) -> str | None:
    if device == "cuda" and not torch.cuda.is_available():
        return "no CUDA or ROCm device is visible to torch"
    if name == "native":
        if device != "cpu":
            return "the C++ kernel runs on the CPU only"
        return library.unavailable_reason()
    if name == "triton":
        return operators.unavailable_reason(device)
    return None


@torch.compiler.assume_constant_result
def _forced_backend(argument: str | None) -> str | None:
    name = argument if argument is not None else os.environ.get(BACKEND_VARIABLE) or None
    if name is not None and name not in BACKENDS:
        origin = "backend" if argument is not None else BACKEND_VARIABLE
        raise BackendError(f"{origin}={name!r} is unknown; choose one of {', '.join(BACKENDS)}.")
    return name


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _choose(backend: str | None, tensors: tuple[Tensor | None, ...]) -> str:
    device = next(t.device.type for t in tensors if t is not None)
    forced = _forced_backend(backend)
    if forced is not None:
        reason = _unavailable_reason(forced, device)
        if reason is None and not _supports(forced, tensors):
            reason = "it computes in float32 and the input is float64"
        if reason is not None:
            raise BackendError(
                f"The {forced} scan cannot run on this input: {reason}; "
                f"unset {BACKEND_VARIABLE} or choose another."
            )
        return forced
    fast = _preference(device)[0]
    reason = _unavailable_reason(fast, device)
    if reason is not None:
        if not torch.compiler.is_compiling():
            _warn_once(
                f"The {fast} scan is not available ({reason}); running the slower pure-PyTorch "
                "one. `qmamba backends` lists what this machine has."
            )
        return "chunked"
    return fast if _supports(fast, tensors) else "chunked"


def _supports(name: str, tensors: tuple[Tensor | None, ...]) -> bool:
    if name == "native":
        return scan.supports(*tensors)
    return name != "triton" or operators.supports(*tensors)


_SCANS: dict[str, Callable[..., Tensor]] = {
    "naive": selective_scan_naive,
    "chunked": selective_scan_chunked,
    "native": scan.selective_scan_native,
    "triton": operators.selective_scan_triton,
}
_SCANS_2D: dict[str, Callable[..., Tensor]] = {
    "naive": ss2d_naive,
    "chunked": ss2d_chunked,
    "native": scan.ss2d_native,
    "triton": operators.ss2d_triton,
}


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    backend: str | None = None,
) -> Tensor:
    """Selective scan along the last axis, in the public layout of the Mamba family.

    With ``dt = delta + delta_bias`` (through softplus if asked), for each channel:
    ``h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] u[t]`` and ``y[t] = C[t] h[t] + D u[t]``.

    Args:
        u: input, ``(batch, channels, length)``, float16, bfloat16, float32 or float64.
        delta: time steps, like ``u``.
        A: ``(channels, states)``, negative for a decaying state.
        B: ``(batch, groups, states, length)``, or without the groups axis for one group. Group g
            serves the g-th equal share of the channels.
        C: like ``B``.
        D: ``(channels,)`` or None.
        delta_bias: ``(channels,)`` or None.
        delta_softplus: apply softplus to the biased time steps.
        backend: ``naive``, ``chunked``, ``native`` or ``triton``; by default ``QMAMBA_BACKEND`` or
            the fastest one that this machine has.

    Returns:
        ``(batch, channels, length)`` in the dtype of ``u``. The state is float32 whatever that
        dtype, or float64 for float64. Differentiable once in every tensor.

    Raises:
        ShapeError: shapes, dtypes or devices do not fit together, or a side is empty.
        BackendError: the implementation asked for is unknown or cannot run on this input.

    Source: Mamba (Gu and Dao, 2023), algorithm 2; arguments of VMamba's ``selective_scan_fn``.
    """
    _check_scan(u, delta, A, B, C, D, delta_bias)
    name = _choose(backend, (u, delta, A, B, C, D, delta_bias))
    return _SCANS[name](u, delta, A, B, C, D, delta_bias, delta_softplus)


def ss2d(
    x: Tensor,
    projected: Tensor,
    routes: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    *,
    merge: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Selective scan of a feature map along several routes, put back and summed.

    For each route k: ``dt = softplus(dt_weight[k] dt_low + dt_bias[k])``, then the recurrence of
    :func:`selective_scan` along the route. At padding steps the input is zero and the state decays.

    Args:
        x: map in raster order, channel last, ``(batch, pixels, channels)``.
        projected: ``(batch, pixels, routes, rank + 2 * states)``: the low-rank time step, B and C
            of each pixel and route, computed on the map as it lies (a pointwise projection
            commutes with any route).
        routes: int32 ``(routes, steps)`` from :func:`qmamba.ops.scan_routes`, or
            ``(batch, routes, steps)`` where each image has its own. Every pixel must occur exactly
            once in each route.
        dt_weight: ``(routes, channels, rank)``.
        dt_bias: ``(routes, channels)``.
        A: ``(routes, channels, states)``, negative.
        D: ``(routes, channels)``.
        merge: sum the routes; otherwise keep them apart (for a gate on each).
        backend: see :func:`selective_scan`.

    Returns:
        ``(batch, pixels, channels)``, or ``(batch, routes, pixels, channels)`` unmerged, in the
        dtype of ``x``. Differentiable once in every float tensor.

    Raises:
        ShapeError: shapes, dtypes or devices do not fit together, or a side is empty.
        BackendError: the implementation asked for is unknown or cannot run on this input.

    Source: VMamba (Liu et al., 2024), SS2D; QMamba section 3.
    """
    _check_ss2d(x, projected, routes, dt_weight, dt_bias, A, D)
    name = _choose(backend, (x, projected, dt_weight, dt_bias, A, D))
    return _SCANS_2D[name](x, projected, routes, dt_weight, dt_bias, A, D, merge)


def _check_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    if u.dim() != 3 or 0 in u.shape:
        raise ShapeError(
            f"u must be (batch, channels, length) and not empty, got {tuple(u.shape)}."
        )
    batch, channels, length = u.shape
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] < 1:
        raise ShapeError(f"A must be ({channels}, states), got {tuple(A.shape)}.")
    states = A.shape[1]
    expected: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("delta", delta, (batch, channels, length)),
        ("D", D, (channels,)),
        ("delta_bias", delta_bias, (channels,)),
    ]
    for name, matrix in (("B", B), ("C", C)):
        groups = matrix.shape[1] if matrix.dim() == 4 else 1
        if groups < 1 or channels % groups:
            raise ShapeError(
                f"{name} has {groups} groups, which do not divide {channels} channels."
            )
        shape = (batch, groups, states, length) if matrix.dim() == 4 else (batch, states, length)
        expected.append((name, matrix, shape))
    if B.shape != C.shape:
        raise ShapeError(f"B and C must have one shape, got {tuple(B.shape)} and {tuple(C.shape)}.")
    _check_tensors(u, [*expected, ("A", A, (channels, states))])


def _check_ss2d(
    x: Tensor,
    projected: Tensor,
    routes: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
) -> None:
    if x.dim() != 3 or 0 in x.shape:
        raise ShapeError(
            f"x must be (batch, pixels, channels) and not empty, got {tuple(x.shape)}."
        )
    if routes.dim() not in (2, 3) or 0 in routes.shape or routes.dtype != torch.int32:
        raise ShapeError(
            "routes must be int32 (routes, steps) or (batch, routes, steps), got "
            f"{routes.dtype} {tuple(routes.shape)}."
        )
    if routes.dim() == 3 and len(routes) != len(x):
        raise ShapeError(f"There are routes for {len(routes)} images and {len(x)} images.")
    if dt_weight.dim() != 3 or A.dim() != 3 or A.shape[2] < 1:
        raise ShapeError(
            "dt_weight must be (routes, channels, rank) and A (routes, channels, states), got "
            f"{tuple(dt_weight.shape)} and {tuple(A.shape)}."
        )
    batch, pixels, channels = x.shape
    count, rank, states = routes.shape[-2], dt_weight.shape[2], A.shape[2]
    if routes.shape[-1] < pixels:
        raise ShapeError(f"The routes have {routes.shape[-1]} steps for {pixels} pixels.")
    if routes.device != x.device:
        raise ShapeError(f"routes is on {routes.device} but x on {x.device}; move it.")
    _check_tensors(
        x,
        [
            ("projected", projected, (batch, pixels, count, rank + 2 * states)),
            ("dt_weight", dt_weight, (count, channels, rank)),
            ("dt_bias", dt_bias, (count, channels)),
            ("A", A, (count, channels, states)),
            ("D", D, (count, channels)),
        ],
    )


def _check_tensors(
    reference: Tensor, expected: list[tuple[str, Tensor | None, tuple[int, ...]]]
) -> None:
    if not reference.is_floating_point():
        raise ShapeError(f"The input must be a float tensor, got {reference.dtype}.")
    for name, tensor, shape in expected:
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise ShapeError(f"{name} must be {shape} to fit the input, got {tuple(tensor.shape)}.")
        if tensor.device != reference.device:
            raise ShapeError(f"{name} is on {tensor.device} but the input on {reference.device}.")
        if not tensor.is_floating_point():
            raise ShapeError(f"{name} must be a float tensor, got {tensor.dtype}.")
