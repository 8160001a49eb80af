"""Routes: the orders in which the selective scan walks over a feature map.

A route is an index table. Entry ``t`` is the raster index ``row * width + column`` of the pixel
that is read at step ``t``; ``PADDING`` marks a step outside the map, at which the input is zero
while the state still decays. Four routes make a set, always in this order: rows, columns, rows
reversed, columns reversed (VMamba's order, so that its per-route weights keep their meaning).

Operators take any number of routes, and also a table with a batch axis before them, where the order
differs from image to image (:func:`class_route`).

With ``window=1`` the set is VMamba's cross scan. A larger window is LocalMamba's window-local scan:
the map is padded at the bottom and right to multiples of the window, windows are visited one after
the other, and each is walked through completely before the next.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qmamba.errors import ShapeError

PADDING = -1


def scan_routes(
    height: int, width: int, window: int = 1, device: torch.device | str = "cpu"
) -> Tensor:
    """Index tables of the four routes over a ``height`` x ``width`` map.

    Args:
        height: rows of the map, at least 1.
        width: columns of the map, at least 1.
        window: side of the square local windows in pixels; 1 is the cross scan.
        device: where the table lives.

    Returns:
        int32 ``(4, steps)``, ``steps = ceil(height / window) * ceil(width / window) * window**2``.
        Every pixel appears exactly once in each row; other entries are ``PADDING``. The table is
        cached and shared: do not write to it.

    Raises:
        ShapeError: a side or the window is smaller than 1.

    Source: QMamba paper, section on local window scanning; VMamba ``CrossScan``; LocalMamba.
    """
    if height < 1 or width < 1 or window < 1:
        raise ShapeError(
            f"A scan needs height, width and window of at least 1, got {height}, {width} and "
            f"{window}; give a larger map or window."
        )
    key = (int(height), int(width), int(window), str(device))
    if torch.compiler.is_compiling():
        return _build_routes(*key)
    table = _CACHE.get(key)
    if table is None:
        # A table that was born in inference mode could not be saved for a later backward pass.
        with torch.inference_mode(False):
            table = _build_routes(*key)
        # A tracing mode hands out stand-ins without data, which must not outlive it.
        if type(table) is Tensor:
            held = sum(t.nbytes for t in _CACHE.values())
            if held + table.nbytes > _CACHE_BYTES:
                _CACHE.clear()
            _CACHE[key] = table
    return table


_CACHE: dict[tuple[int, int, int, str], Tensor] = {}
_CACHE_BYTES = 64 * 2**20


def _build_routes(height: int, width: int, window: int, device: str) -> Tensor:
    rows = -(-height // window)
    columns = -(-width // window)
    raster = torch.full((rows * window, columns * window), PADDING, dtype=torch.int32)
    raster[:height, :width] = torch.arange(height * width, dtype=torch.int32).view(height, width)
    # (window row, row inside, window column, column inside)
    tiles = raster.view(rows, window, columns, window)
    by_row = tiles.permute(0, 2, 1, 3).reshape(-1)
    by_column = tiles.permute(2, 0, 3, 1).reshape(-1)
    return torch.stack([by_row, by_column, by_row.flip(0), by_column.flip(0)]).to(device)


def gather_routes(features: Tensor, routes: Tensor) -> Tensor:
    """Read a map along each route.

    Args:
        features: ``(batch, pixels, channels)``.
        routes: int32 ``(routes, steps)`` from :func:`scan_routes`, or ``(batch, routes, steps)``
            where each image has its own.

    Returns:
        ``(batch, routes, steps, channels)``, zero at padding steps.
    """
    routes = routes.expand(len(features), *routes.shape[-2:])
    image = torch.arange(len(features), device=features.device)[:, None, None]
    steps = features[image, routes.clamp_min(0).long()]
    return steps.masked_fill((routes == PADDING)[..., None], 0)


def scatter_routes(outputs: Tensor, routes: Tensor, pixels: int) -> Tensor:
    """Put what each route produced back into raster order and drop the padding steps.

    Args:
        outputs: ``(batch, routes, steps, channels)``.
        routes: int32 ``(routes, steps)`` or ``(batch, routes, steps)`` as for
            :func:`gather_routes`.
        pixels: number of pixels of the map.

    Returns:
        ``(batch, routes, pixels, channels)``.
    """
    steps = step_of_pixel(routes, pixels)
    return outputs.gather(
        2, steps.expand(len(outputs), -1, -1)[..., None].expand(-1, -1, -1, outputs.shape[-1])
    )


def step_of_pixel(routes: Tensor, pixels: int) -> Tensor:
    """The inverse: the step that visits each pixel, int64 ``([batch,] routes, pixels)``."""
    steps = torch.arange(routes.shape[-1], device=routes.device).expand_as(routes)
    shape = (*routes.shape[:-1], pixels + 1)
    inverse = torch.empty(shape, dtype=torch.int64, device=routes.device)
    # Padding steps all land in one surplus column.
    targets = torch.where(routes == PADDING, pixels, routes).long()
    return inverse.scatter_(-1, targets, steps)[..., :pixels]


def class_route(classes: Tensor) -> Tensor:
    """The route that visits the pixels of each image class by class, and in raster order in each.

    Args:
        classes: ``(batch, pixels)``, a whole number for each pixel.

    Returns:
        int32 ``(batch, 1, pixels)``, one route for each image.

    Example:
        >>> class_route(torch.tensor([[1, 0, 1, 0]])).tolist()
        [[[1, 3, 0, 2]]]

    Source: MambaIRv2, semantic guided neighboring; its code sorts without keeping ties in order,
    which repeats on no two machines.
    """
    return torch.argsort(classes, dim=-1, stable=True)[:, None].to(torch.int32)
