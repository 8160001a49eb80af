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

import weakref

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
        _keep(key, table)
    return table


def straight_routes(count: int, steps: int, device: torch.device | str = "cpu") -> Tensor:
    """``count`` routes that all run straight ahead: int32 ``(count, steps)``, cached like those."""
    key = (int(count), int(steps), 0, str(device))
    if torch.compiler.is_compiling():
        return _build_straight_routes(count, steps, key[-1])
    table = _CACHE.get(key)
    if table is None:
        with torch.inference_mode(False):
            table = _build_straight_routes(count, steps, key[-1])
        _keep(key, table)
    return table


_CACHE: dict[tuple[int, int, int, str], Tensor] = {}
_CACHE_BYTES = 64 * 2**20


def _keep(key: tuple[int, int, int, str], table: Tensor) -> None:
    # A tracing mode hands out stand-ins without data, which must not outlive it.
    if type(table) is Tensor:
        held = sum(t.nbytes for t in _CACHE.values())
        if held + table.nbytes > _CACHE_BYTES:
            _CACHE.clear()
        _CACHE[key] = table


def _build_straight_routes(count: int, steps: int, device: str) -> Tensor:
    order = torch.arange(steps, dtype=torch.int32, device=device)
    return order.expand(count, steps).contiguous()


def _build_routes(height: int, width: int, window: int, device: str) -> Tensor:
    rows = -(-height // window)
    columns = -(-width // window)
    sides = (rows * window, columns * window)
    raster = torch.full(sides, PADDING, dtype=torch.int32, device="cpu")
    inside = torch.arange(height * width, dtype=torch.int32, device="cpu")
    raster[:height, :width] = inside.view(height, width)
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
    image = torch.arange(len(features), dtype=torch.int64, device=features.device)
    image = image[:, None, None]
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
    steps = torch.arange(routes.shape[-1], dtype=torch.int64, device=routes.device)
    steps = steps.expand_as(routes)
    shape = (*routes.shape[:-1], pixels + 1)
    inverse = torch.empty(shape, dtype=torch.int64, device=routes.device)
    # Padding steps all land in one surplus column.
    targets = torch.where(routes == PADDING, pixels, routes).long()
    return inverse.scatter_(-1, targets, steps)[..., :pixels]


def require_routes(routes: Tensor, pixels: int) -> None:
    """Refuse a table that is not made of routes over a map.

    Every entry is looked at, but only once for a table and a size: what was found right is
    remembered until the table is written to (by its version counter, which edits through ``.data``
    or NumPy do not move) or goes away.

    Args:
        routes: int32 ``(routes, steps)``, or with a batch axis before.
        pixels: number of pixels of the map.

    Raises:
        ShapeError: the dtype or the dimensions are others, an entry is neither a pixel nor
            ``PADDING``, or a route visits a pixel never or twice.
    """
    known = _CHECKED.get(id(routes))
    if known is not None and known[0]() is routes and known[1:] == (_version(routes), pixels):
        return
    if routes.dtype != torch.int32 or routes.dim() not in (2, 3):
        raise ShapeError(
            "The argument routes must be int32 (routes, steps) or (batch, routes, steps), got "
            f"{routes.dtype} {tuple(routes.shape)}."
        )
    table = routes.detach().flatten(0, -2)
    lowest, highest = (int(end) for end in table.aminmax()) if table.numel() else (0, pixels)
    if lowest < PADDING or highest >= pixels:
        raise ShapeError(
            f"routes has entries from {lowest} to {highest}, but the map has the pixels 0 to "
            f"{pixels - 1}, and {PADDING} stands for padding."
        )
    visits = torch.zeros(len(table), pixels + 1, dtype=torch.int32, device=table.device)
    visits.scatter_add_(1, table.long() % (pixels + 1), torch.ones_like(table))
    if not bool((visits[:, :pixels] == 1).all()):
        raise ShapeError(
            f"Every route must visit each of the {pixels} pixels exactly once, and one of these "
            "does not; take the table from scan_routes for this size of map."
        )
    version = _version(routes)
    if version is not None:
        key = id(routes)
        reference = weakref.ref(routes, lambda _: _CHECKED.pop(key, None))
        _CHECKED[key] = (reference, version, pixels)


_CHECKED: dict[int, tuple[weakref.ref[Tensor], int | None, int]] = {}


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was written to; unknown for those born in inference mode."""
    return None if tensor.is_inference() else tensor._version


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
