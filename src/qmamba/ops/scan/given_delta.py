"""The 2-D scan with delta that is given rather than computed from a low rank.

A quantized network rounds delta before the bias and the softplus, so it has to exist as a tensor.
The native kernel reads it on the map as it lies; the other implementations read permuted copies, as
:func:`qmamba.ops.selective_scan` needs them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qmamba.ops.native import scan
from qmamba.ops.scan.arguments import check_map_scan
from qmamba.ops.scan.dispatch import choose_backend, selective_scan
from qmamba.ops.scan.routes import gather_routes, require_routes, scatter_routes


def ss2d_given_delta(
    x: Tensor,
    delta: Tensor,
    projected: Tensor,
    routes: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    *,
    merge: bool = True,
    backend: str | None = None,
) -> Tensor:
    """:func:`qmamba.ops.ss2d` with ``dt = softplus(delta + dt_bias)``.

    Args:
        x: map in raster order, ``(batch, pixels, channels)``.
        delta: ``(batch, routes, pixels, channels)``, of each pixel of the map as it lies.
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
        ShapeError: shapes, dtypes or devices do not fit together, a side is empty, or the table is
            not made of routes over such a map.
        BackendError: the implementation asked for is unknown or cannot run on this input.
    """
    no_weight = dt_bias.new_empty(*dt_bias.shape, 0)
    check_map_scan(x, projected, routes, no_weight, dt_bias, A, D, delta)
    name = choose_backend(backend, (x, delta, projected, dt_bias, A, D))
    if name == "native":
        return scan.ss2d_given_delta_native(x, delta, projected, routes, dt_bias, A, D, merge)
    if not torch.compiler.is_compiling():
        require_routes(routes, x.shape[1])
    count, length = routes.shape[-2:]
    u = gather_routes(x, routes)
    along = [
        torch.stack(
            [gather_routes(maps[:, k], routes[..., k : k + 1, :])[:, 0] for k in range(count)],
            dim=1,
        )
        for maps in (delta, projected.transpose(1, 2))
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
