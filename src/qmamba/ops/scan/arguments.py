"""What the arguments of a scan must be, whichever implementation gets them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qmamba.errors import ShapeError

_Expected = Sequence[tuple[str, Tensor | None, tuple[int, ...]]]


def check_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    """Refuse arguments of :func:`qmamba.ops.selective_scan` that do not fit together.

    Raises:
        ShapeError: a shape, dtype or device is wrong, or a side is empty.
    """
    if u.dim() != 3 or 0 in u.shape:
        raise ShapeError(
            f"The argument u must be (batch, channels, length) and not empty, got {tuple(u.shape)}."
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


def check_map_scan(
    x: Tensor,
    projected: Tensor,
    routes: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    delta: Tensor | None = None,
    *,
    may_have_own_maps: bool = False,
    may_be_empty: bool = False,
) -> None:
    """Refuse arguments of a 2-D scan that do not fit together; the table itself is not read.

    Args:
        x: ``(batch, pixels, channels)``.
        projected: ``(batch, pixels, routes, rank + 2 * states)``.
        routes: int32 ``(routes, steps)``, or with a batch axis before.
        dt_weight: ``(routes, channels, rank)``.
        dt_bias, D: ``(routes, channels)``.
        A: ``(routes, channels, states)``.
        delta: ``(batch, routes, pixels, channels)``, or ``None`` where it comes from its low rank.
        may_have_own_maps: whether ``x`` may have a routes axis after the batch.
        may_be_empty: whether a batch of nothing is fine.

    Raises:
        ShapeError: a shape, dtype or device is wrong, or a side is empty.
    """
    if x.dim() not in ((3, 4) if may_have_own_maps else (3,)) or 0 in x.shape[may_be_empty:]:
        raise ShapeError(
            f"The argument x must be (batch, pixels, channels) and not empty, got {tuple(x.shape)}."
        )
    if routes.dim() not in (2, 3) or 0 in routes.shape[-2:] or routes.dtype != torch.int32:
        raise ShapeError(
            "The argument routes must be int32 (routes, steps) or (batch, routes, steps), got "
            f"{routes.dtype} {tuple(routes.shape)}."
        )
    if routes.dim() == 3 and len(routes) != len(x):
        raise ShapeError(f"There are routes for {len(routes)} images and {len(x)} images.")
    if dt_weight.dim() != 3 or A.dim() != 3 or A.shape[2] < 1:
        raise ShapeError(
            "The argument dt_weight must be (routes, channels, rank) and A (routes, channels, "
            "states), got "
            f"{tuple(dt_weight.shape)} and {tuple(A.shape)}."
        )
    batch, pixels, channels = x.shape[0], x.shape[-2], x.shape[-1]
    count, rank, states = routes.shape[-2], dt_weight.shape[2], A.shape[2]
    if routes.shape[-1] < pixels:
        raise ShapeError(f"The routes have {routes.shape[-1]} steps for {pixels} pixels.")
    if routes.device != x.device:
        raise ShapeError(f"The argument routes is on {routes.device} but x on {x.device}; move it.")
    shared = x.dim() == 3
    _check_tensors(
        x,
        [
            ("x", x, tuple(x.shape) if shared else (batch, count, pixels, channels)),
            ("delta", delta, (batch, count, pixels, channels)),
            ("projected", projected, (batch, pixels, count, rank + 2 * states)),
            ("dt_weight", dt_weight, (count, channels, rank)),
            ("dt_bias", dt_bias, (count, channels)),
            ("A", A, (count, channels, states)),
            ("D", D, (count, channels)),
        ],
    )


def check_backward(grad: Tensor, y: Sequence[int], states: Tensor, saved: Sequence[int]) -> None:
    """Refuse a gradient or states that are not those of the forward pass.

    Args:
        grad: of the output.
        y: the shape of the output.
        states: what the forward pass saved.
        saved: its shape.

    Raises:
        ShapeError: a shape is another one.
    """
    for name, tensor, shape in (("grad", grad, y), ("states", states, saved)):
        if tuple(tensor.shape) != tuple(shape):
            raise ShapeError(
                f"{name} must be {tuple(shape)} as the forward pass with save_states=True gives "
                f"it, got {tuple(tensor.shape)}."
            )


def _check_tensors(reference: Tensor, expected: _Expected) -> None:
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
