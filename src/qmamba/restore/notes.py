"""What is said about an image beside its pixels."""

from __future__ import annotations

from qmamba.images import ImageLayers
from qmamba.models import RestorationConfig
from qmamba.restore.planes import Alpha
from qmamba.restore.tiles import TilePlan


def treatment_notes(
    layers: ImageLayers,
    config: RestorationConfig,
    scale: int,
    alpha: Alpha,
) -> list[str]:
    """About the layers that the network was not made for.

    Args:
        layers: of the image.
        config: of the network.
        scale: sides of the output as a multiple of those of the input.
        alpha: what becomes of alpha.
    """
    notes = []
    if scale != config.scale:
        notes.append(f"enlarged by {config.scale} and reduced to {scale} by bicubic interpolation")
    if layers.colors.shape[2] == 3 and config.channels == 1:
        kept = "kept" if scale == 1 else "enlarged by bicubic interpolation"
        notes.append(f"luma restored, chroma {kept}")
    if layers.alpha is not None:
        if alpha == "restore":
            notes.append("alpha restored")
        elif scale == 1:
            notes.append("alpha kept")
        else:
            notes.append("alpha enlarged by bicubic interpolation")
    return notes


def tiling_notes(planned: TilePlan, used: TilePlan) -> list[str]:
    """About the tiles that were used."""
    if used != planned:
        return [f"memory ran out, so tiles were made smaller: {used}"]
    return [str(used)] if len(used) > 1 else []
