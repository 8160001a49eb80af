"""The 2-D scan with time steps that are given rather than computed from a low rank.

A quantized network rounds its time steps before the bias and the softplus, so they have to exist as
a tensor. The native kernel reads them on the map as it lies; the other implementations read
permuted copies, as :func:`qmamba.ops.selective_scan` needs them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qmamba.errors import ShapeError
from qmamba.ops.native import scan
from qmamba.ops.scan.dispatch import _choose, selective_scan
from qmamba.ops.scan.routes import gather_routes, scatter_routes


def ss2d_given_steps(
    x: Tensor,
    steps: Tensor,
    projected: Tensor,
    routes: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    *,
    merge: bool = True,
    backend: str | None = None,
) -> Tensor:
    """:func:`qmamba.ops.ss2d` with ``dt = softplus(steps + dt_bias)``.

    Args:
        x: map in raster order, ``(batch, pixels, channels)``.
        steps: ``(batch, routes, pixels, channels)``, of each pixel of the map as it lies.
        projected: ``(batch, pixels, routes, 2 * states)``: B and C of each pixel and route.
        routes: int32 ``(routes, length)`` or ``(batch, routes, length)``; at padding all inputs are
            zero.
        dt_bias: ``(routes, channels)``.
        A: ``(routes, channels, states)``, negative.
        D: ``(routes, channels)``.
        merge: sum the routes; otherwise keep them apart.
        backend: see :func:`qmamba.ops.selective_scan`.

    Returns:
        ``(batch, pixels, channels)``, or ``(batch, routes, pixels, channels)`` unmerged, in the
        dtype of ``x``. Differentiable once in every float tensor.

    Raises:
        ShapeError: shapes do not fit together.
        BackendError: the implementation asked for is unknown or cannot run on this input.
    """
    _check(x, steps, projected, routes, dt_bias, A, D)
    name = _choose(backend, (x, steps, projected, dt_bias, A, D))
    if name == "native":
        return scan.ss2d_given_steps_native(x, steps, projected, routes, dt_bias, A, D, merge)
    count, length = routes.shape[-2:]
    u = gather_routes(x, routes)
    along = [
        torch.stack(
            [gather_routes(maps[:, k], routes[..., k : k + 1, :])[:, 0] for k in range(count)],
            dim=1,
        )
        for maps in (steps, projected.transpose(1, 2))
    ]
    delta, B_and_C = (table.transpose(2, 3) for table in along)
    B, C = B_and_C.tensor_split(2, dim=2)
    y = selective_scan(
        u.transpose(2, 3).flatten(1, 2).contiguous(),
        delta.flatten(1, 2).to(x.dtype),
        A.flatten(0, 1),
        B,
        C,
        D.flatten(),
        dt_bias.flatten(),
        delta_softplus=True,
        backend=name,
    )
    y = scatter_routes(y.view(len(x), count, -1, length).transpose(2, 3), routes, x.shape[1])
    return y.sum(1) if merge else y


def _check(
    x: Tensor,
    steps: Tensor,
    projected: Tensor,
    routes: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
) -> None:
    if x.dim() != 3 or A.dim() != 3 or routes.dim() not in (2, 3) or 0 in (*x.shape, *A.shape):
        raise ShapeError(
            "x must be (batch, pixels, channels), A (routes, channels, states) and routes "
            f"(routes, length), none empty, got {tuple(x.shape)}, {tuple(A.shape)} and "
            f"{tuple(routes.shape)}."
        )
    (batch, pixels, channels), (count, _, states) = x.shape, A.shape
    for name, tensor, shape in (
        ("steps", steps, (batch, count, pixels, channels)),
        ("projected", projected, (batch, pixels, count, 2 * states)),
        ("routes", routes, ((batch,) if routes.dim() == 3 else ()) + (count, routes.shape[-1])),
        ("dt_bias", dt_bias, (count, channels)),
        ("A", A, (count, channels, states)),
        ("D", D, (count, channels)),
    ):
        if tuple(tensor.shape) != shape or tensor.device != x.device:
            raise ShapeError(
                f"{name} must be {shape} on {x.device}, got {tuple(tensor.shape)} on "
                f"{tensor.device}."
            )
