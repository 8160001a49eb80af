"""Restoring all tiles of an image, with smaller tiles where memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from qmamba.errors import ImageError, QMambaError
from qmamba.ops.out_of_memory import is_out_of_memory
from qmamba.restore.memory import release
from qmamba.restore.tiles import MIN_TILE, RestoreTile, TilePlan, blended, plan_tiles

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of tiles that are done and the number of all; it starts again from zero
where memory ran out."""


class Canceled(QMambaError):
    """The caller asked to stop."""


class Watch(NamedTuple):
    """How a caller follows the work and ends it."""

    progress: Progress | None = None
    cancel: Callable[[], bool] | None = None
    """Asked before every tile; ``True`` stops."""


def restore_tiles(
    plan: TilePlan,
    restore_tile: RestoreTile,
    write: Callable[[int, Tensor], None],
    *,
    scale: int,
    device: torch.device,
    overlap: int | None,
    watch: Watch,
) -> TilePlan:
    """Restore all tiles of a plan and write the blended bands from top to bottom.

    Where memory runs out everything starts again with tiles of half the side, so that every band of
    the result comes from one and the same plan.

    Args:
        plan: the tiles to begin with.
        restore_tile: see :data:`~qmamba.restore.tiles.RestoreTile`.
        write: takes the first output row of a band and the band.
        scale: output pixels per input pixel along each axis.
        device: where the tiles are restored.
        overlap: of smaller tiles; ``None`` allows none.
        watch: who follows the work.

    Returns:
        The plan that succeeded.

    Raises:
        ImageError: memory does not suffice for the smallest tiles.
        Canceled: the caller asked to stop.
    """
    while not _attempt(plan, restore_tile, write, scale, watch):
        release(device)
        height, width = plan.tile
        side = max(height, width)
        if overlap is None or side <= MIN_TILE:
            hint = "; let the image be divided into tiles" if overlap is None else ""
            raise ImageError(
                f"the memory of {device} is too small for {width} x {height} pixels at once{hint}"
            )
        side = max(MIN_TILE, side // 2)
        plan = plan_tiles(plan.rows[-1].stop, plan.columns[-1].stop, side, overlap)
    return plan


def _attempt(
    plan: TilePlan,
    restore_tile: RestoreTile,
    write: Callable[[int, Tensor], None],
    scale: int,
    watch: Watch,
) -> bool:
    """Restore all tiles; False where memory runs out."""
    done = 0

    def watched(rows: slice, columns: slice) -> Tensor:
        nonlocal done
        if watch.cancel is not None and watch.cancel():
            raise Canceled("Restoration was canceled.")
        tile = restore_tile(rows, columns)
        done += 1
        if watch.progress is not None:
            watch.progress(done, len(plan))
        return tile

    try:
        for row, band in blended(watched, plan, scale):
            write(row, band)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
