"""Which configuration a kernel of the scan runs with, without trying any.

A trial run of every configuration takes the better part of a minute for each width, dtype and batch
of a model, so that a first score would come too late. These rules need none. With
``QMAMBA_AUTOTUNE=1`` Triton times the configurations that fit instead, once per kind of call, and
keeps its choice on disk.

The rules follow from what the kernels hold. A thread has registers for about sixteen values of a
tile in each of the arrays that a step needs, so a tile of sixteen steps takes one channel per
thread, or two where a program then still has enough of them; with several states every array is
used again for each state and the longer tile spreads the cost of reading B and C. Wide maps take
wide programs, because all programs of a route read the same B and C.
"""

from __future__ import annotations

import os
from typing import NamedTuple

AUTOTUNE_VARIABLE = "QMAMBA_AUTOTUNE"
"""Set to 1 to let Triton choose by timing."""

_SHORT_TILE = 16
_LONG_TILE = 32
_WARP = 32
_WIDE = 128


class ScanChoice(NamedTuple):
    """How the forward kernel is launched."""

    block: int
    """Channels of a program."""
    vector: int
    """Neighboring channels of a thread."""
    tile: int
    """Steps that are worked on at once."""
    warps: int
    stages: int


class BackwardChoice(NamedTuple):
    """How the backward kernel is launched; the block and the tile are the caller's."""

    vector: int
    warps: int
    stages: int


def autotuned() -> bool:
    """Whether trials are asked for."""
    return os.environ.get(AUTOTUNE_VARIABLE, "").lower() in ("1", "true", "yes", "on")


def scan_choice(channels: int, states: int, save: int) -> ScanChoice:
    """The configuration of the forward kernel.

    Args:
        channels: of the map.
        states: per channel.
        save: steps between two saved states, 0 for inference; the tile divides it.
    """
    if states >= 3 and save % _LONG_TILE == 0:
        if channels <= _WARP:
            return ScanChoice(_WARP, 1, _LONG_TILE, 1, 1)
        return ScanChoice(2 * _WARP, 1, _LONG_TILE, 2, 1)
    if channels <= _WARP:
        return ScanChoice(_WARP, 1, _SHORT_TILE, 1, 1)
    if channels % _WIDE:
        return ScanChoice(2 * _WARP, 2, _SHORT_TILE, 1, 1)
    return ScanChoice(_WIDE, 2, _SHORT_TILE, 2, 1)


def backward_choice(block: int, tile: int) -> BackwardChoice:
    """The configuration of the backward kernel.

    Args:
        block: channels of a program, 32, 64 or 128.
        tile: its steps, 16 or 32.
    """
    vector = 1 if tile > _SHORT_TILE or block < 2 * _WARP else 2
    return BackwardChoice(vector, block // (_WARP * vector), 1)
