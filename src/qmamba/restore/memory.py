"""How much memory a restoration network takes per pixel of its input, and how much there is."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import torch

from qmamba.inference import Precision
from qmamba.models import RestorationConfig
from qmamba.models.mambair.network import TAIL_DIM

USABLE_SHARE = 0.5
"""Part of the free memory that a tile may be planned to take."""

_UNKNOWN_MEMORY = 2 << 30
_FLOAT = 4
# Peaks of the process were 1.3 to 1.8 times the feature maps that are alive at once in the deepest
# block, because convolutions reorder their inputs and freed memory is kept for the next maps.
_OVERHEAD = 2.25
_BFLOAT16 = 0.6


def bytes_per_pixel(config: RestorationConfig, precision: Precision = "auto") -> int:
    """Estimate of the memory that the network takes for one pixel of its input, from above.

    The figure counts the feature maps that are alive at once and a measured surplus. It holds for
    images of at least 128 x 128 pixels, without gradients.
    """
    network = max(config.held, _tail(config)) * _OVERHEAD * _FLOAT
    if precision == "bf16":
        network *= _BFLOAT16
    # Three maps of the result: the network's, the blended band, and what becomes the image.
    pixels = config.channels * (1 + 3 * config.scale**2) * _FLOAT
    return math.ceil(network + pixels)


def _tail(config: RestorationConfig) -> int:
    """Values per input pixel that are alive at once while the image is enlarged."""
    if config.task == "sr-classic":
        factor = 3 if config.scale == 3 else 2
        return config.dim + TAIL_DIM * (2 * config.scale**2 + (config.scale // factor) ** 2)
    if config.task == "sr-real":
        return config.dim + 3 * TAIL_DIM * config.scale**2
    return 3 * config.dim + 2 * config.channels * config.scale**2


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on a device; a guess of 2 GiB where nobody tells."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + kept
    if device.type == "mps":
        limit = torch.mps.recommended_max_memory()
        return max(0, int(limit) - int(torch.mps.driver_allocated_memory()))
    return _free_main_memory() or _UNKNOWN_MEMORY


def release(device: torch.device) -> None:
    """Give cached blocks of a GPU back, so that a smaller allocation can succeed."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _free_main_memory() -> int | None:
    found = [bytes_free for bytes_free in (_system_memory(), _group_memory()) if bytes_free]
    return min(found) if found else None


def _system_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    if sys.platform == "win32":
        return _windows_memory()
    try:
        # What is free for the taking is not told there; half of all is a careful guess.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return None


def _group_memory() -> int | None:
    """What the container that this process runs in still grants."""
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            return max(1, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):
            continue
    return None


def _windows_memory() -> int | None:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "a", "b", "c", "d", "e")),
        )

    status = Status(length=ctypes.sizeof(Status))
    windows = getattr(ctypes, "windll", None)
    if windows is None or not windows.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return int(status.free)
