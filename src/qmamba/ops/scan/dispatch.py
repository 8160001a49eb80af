"""Which scan implementation runs, and the two operators that everybody else calls."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from qmamba.errors import BackendError
from qmamba.ops.native import library, scan
from qmamba.ops.scan.arguments import check_map_scan, check_scan
from qmamba.ops.scan.chunked import selective_scan_chunked, ss2d_chunked
from qmamba.ops.scan.naive import selective_scan_naive, ss2d_naive
from qmamba.ops.triton import operators

BACKENDS = ("naive", "chunked", "native", "triton")
BACKEND_VARIABLE = "QMAMBA_BACKEND"


Choice = TypeVar("Choice", bound=Callable[..., str | None])


def _constant_in_graphs(function: Choice) -> Choice:
    """What ``torch.compiler.assume_constant_result`` does, which imports the compiler to do it.

    That takes longer than the import of torch, and scoring an image needs no compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


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


@_constant_in_graphs
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


@_constant_in_graphs
def _forced_backend(argument: str | None) -> str | None:
    name = argument if argument is not None else os.environ.get(BACKEND_VARIABLE) or None
    if name is not None and name not in BACKENDS:
        origin = "backend" if argument is not None else BACKEND_VARIABLE
        raise BackendError(f"{origin}={name!r} is unknown; choose one of {', '.join(BACKENDS)}.")
    return name


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def choose_backend(backend: str | None, tensors: tuple[Tensor | None, ...]) -> str:
    """The implementation to run on these tensors: the one asked for, or the fastest one.

    Raises:
        BackendError: the one asked for is unknown or cannot run on them.
    """
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

    Example:
        >>> import torch
        >>> u, delta = torch.rand(2, 1, 4, 5)
        >>> A, (B, C) = -torch.ones(4, 3), torch.rand(2, 1, 3, 5)
        >>> selective_scan(u, delta, A, B, C).shape
        torch.Size([1, 4, 5])
    """
    check_scan(u, delta, A, B, C, D, delta_bias)
    name = choose_backend(backend, (u, delta, A, B, C, D, delta_bias))
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
        ShapeError: shapes, dtypes or devices do not fit together, a side is empty, or the table is
            not made of routes over such a map (see :func:`qmamba.ops.scan.routes.require_routes`).
        BackendError: the implementation asked for is unknown or cannot run on this input.

    Source: VMamba (Liu et al., 2024), SS2D; QMamba section 3.

    Example:
        >>> import torch
        >>> from qmamba.ops import scan_routes
        >>> channels, rank, states = 6, 2, 1
        >>> x, routes = torch.rand(1, 3 * 5, channels), scan_routes(3, 5)
        >>> projected = torch.rand(1, 3 * 5, 4, rank + 2 * states)
        >>> dt_weight, dt_bias = torch.rand(4, channels, rank), torch.zeros(4, channels)
        >>> A, D = -torch.ones(4, channels, states), torch.ones(4, channels)
        >>> ss2d(x, projected, routes, dt_weight, dt_bias, A, D).shape
        torch.Size([1, 15, 6])
    """
    check_map_scan(x, projected, routes, dt_weight, dt_bias, A, D)
    name = choose_backend(backend, (x, projected, dt_weight, dt_bias, A, D))
    return _SCANS_2D[name](x, projected, routes, dt_weight, dt_bias, A, D, merge)
