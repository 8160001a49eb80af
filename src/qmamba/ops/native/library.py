"""The door to the compiled C++ kernel: finding the library, lending it threads and memory.

The library has a plain C interface (mirrored by :mod:`qmamba.ops.native.structs`) and is loaded
with ctypes, so one build serves every torch and Python version. It shares torch's own thread pool
where libtorch exports it (torch >= 2.10), and starts its own threads elsewhere; both follow
``torch.get_num_threads()``.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qmamba.errors import BackendError
from qmamba.ops.native.structs import (
    IntegerCallStruct,
    QuantizedScanStruct,
    ScanStruct,
    Struct,
    first_difference,
)

INSTRUCTION_SET_VARIABLE = "QMAMBA_INSTRUCTION_SET"
LANES = {"baseline": 4, "avx2": 8, "avx512": 16}
PRODUCTS = {"wide": 0, "dot": 1, "tile": 2}
"""Instructions for products of 8-bit integers: those of 16-bit ones, dot products of four, tiles of
AMX. Each stands for itself and the ones before it, where the processor has them."""
_KEPT_WORKSPACE_BYTES = 256 * 2**20
_ALIGNMENT = 64
"""Bytes of a cache line."""


class _Kept(threading.local):
    """What a thread keeps from one call to the next."""

    workspace: Tensor | None = None
    holders = 0


class Kernel:
    """The loaded library, the thread pool it shares, and the instruction set in use."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self._functions: dict[str, Any] = {}
        library.qmamba_segment.restype = ctypes.c_int64
        self.segment = int(library.qmamba_segment())
        self.torch_pool = _torch_parallel_for()
        self.lanes = _choose_lanes(int(library.qmamba_lanes()))
        # A set that is asked for by name is that set alone.
        self.products = PRODUCTS["wide" if os.environ.get(INSTRUCTION_SET_VARIABLE) else "tile"]
        """The newest instructions for products of 8-bit integers that may be used."""
        self._kept = _Kept()

    @property
    def instruction_set(self) -> str:
        return next(name for name, lanes in LANES.items() if lanes == self.lanes)

    def run(self, name: str, call: Struct, lanes: int | None = None) -> None:
        """Run an exported function: its call, the threads to use, and the instruction set."""
        function = self._function(name, None)
        threads = torch.get_num_threads()
        pool, lanes = self.torch_pool, self.lanes if lanes is None else lanes
        function(ctypes.byref(call), pool, ctypes.c_int32(threads), ctypes.c_int32(lanes))

    def _function(self, name: str, result: type[ctypes.c_int64] | None) -> Any:
        found = self._functions.get(name)
        if found is None:
            found = getattr(self.library, f"qmamba_{name}")
            found.restype = result
            self._functions[name] = found
        return found

    def size(self, name: str, call: Struct, *numbers: int) -> int:
        """What an exported function says about the memory that a call needs."""
        function = self._function(name, ctypes.c_int64)
        return int(function(ctypes.byref(call), *(ctypes.c_int32(n) for n in numbers)))

    def run_scan(self, call: ScanStruct, *, backward: bool) -> None:
        """Lend a pass of the scan its workspace and run it."""
        size = self.size("workspace", call, torch.get_num_threads(), backward)
        workspace = self._workspace(size)
        call.workspace = workspace.data_ptr()
        self.run("backward" if backward else "forward", call)

    def run_integer(self, call: IntegerCallStruct) -> None:
        """Lend a call on integers its workspace and run it."""
        size = self.size("integer_workspace", call, torch.get_num_threads())
        workspace = self._workspace(size)
        call.workspace = _aligned(workspace.data_ptr())
        call.products = self.products
        self.run("integer_linear", call)

    def run_quantized_scan(self, call: QuantizedScanStruct) -> None:
        """Lend a scan of quantized operands its tables and its workspace and run it."""
        sums = self.size("workspace", call.scan, torch.get_num_threads(), 0)
        tables = 4 * self.size("quantized_floats", call)
        workspace = self._workspace(sums + tables + 2 * _ALIGNMENT)
        call.tables = begin = _aligned(workspace.data_ptr())
        call.scan.workspace = _aligned(begin + tables)
        self.run("run_quantized_scan", call)

    def _workspace(self, size: int) -> Tensor:
        # Fresh large blocks cost a page fault per page on each call.
        kept = self._kept
        if kept.workspace is not None and kept.workspace.numel() >= size:
            return kept.workspace
        kept.workspace = None
        # Born in inference mode, it could not be written to outside.
        with torch.inference_mode(False):
            workspace = torch.empty(size, dtype=torch.uint8, device="cpu")
        if size <= _KEPT_WORKSPACE_BYTES or kept.holders:
            kept.workspace = workspace
        return workspace

    @contextmanager
    def held_workspace(self) -> Iterator[None]:
        """Keep a large workspace, too, until this thread leaves the outermost such block."""
        kept = self._kept
        kept.holders += 1
        try:
            yield
        finally:
            kept.holders -= 1
            workspace = kept.workspace
            is_large = workspace is not None and workspace.numel() > _KEPT_WORKSPACE_BYTES
            if is_large and not kept.holders:
                kept.workspace = None


def held_workspace() -> AbstractContextManager[None]:
    """What :meth:`Kernel.held_workspace` does, and nothing where there is no kernel."""
    found = _load()
    return nullcontext() if isinstance(found, str) else found.held_workspace()


def _aligned(address: int) -> int:
    return -(-address // _ALIGNMENT) * _ALIGNMENT


def _torch_parallel_for() -> ctypes.c_void_p | None:
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        if (folder / name).exists():
            try:
                function = ctypes.CDLL(str(folder / name)).torch_parallel_for
            except (OSError, AttributeError):
                return None
            return ctypes.cast(function, ctypes.c_void_p)
    return None


def _choose_lanes(widest: int) -> int:
    asked = os.environ.get(INSTRUCTION_SET_VARIABLE)
    if not asked:
        return widest
    if asked not in LANES or LANES[asked] > widest:
        here = ", ".join(name for name, lanes in LANES.items() if lanes <= widest)
        raise BackendError(
            f"{INSTRUCTION_SET_VARIABLE}={asked} cannot run on this processor; choose one of "
            f"{here}."
        )
    return LANES[asked]


@cache
def _load() -> Kernel | str:
    """The kernel, or one sentence that says why there is none."""
    # An editable install keeps the compiled file apart from the sources.
    for folder in sys.modules["qmamba.ops.native"].__path__:
        for name in ("libqmamba_scan.so", "libqmamba_scan.dylib"):
            path = Path(folder) / name
            if path.exists():
                try:
                    library = ctypes.CDLL(str(path))
                except OSError as error:
                    return f"the compiled kernel does not load on this machine ({error})"
                difference = first_difference(library)
                if difference is not None:
                    return (
                        f"the compiled kernel was built from other sources ({difference}); "
                        "reinstall qmamba, or rebuild it in a checkout (docs/kernel.md)"
                    )
                return Kernel(library)
    return (
        "the C++ kernel was not built at installation; install a C++ compiler (GCC or Clang) and "
        "reinstall"
    )


def unavailable_reason() -> str | None:
    """Why the native kernel cannot run here, or None if it can."""
    found = _load()
    return found if isinstance(found, str) else None


def load_kernel() -> Kernel:
    found = _load()
    if isinstance(found, str):
        raise BackendError(f"The native scan is not available: {found}.")
    return found


def instruction_set() -> str:
    """``baseline``, ``avx2`` or ``avx512``: the variant in use."""
    return load_kernel().instruction_set


def shares_torch_threads() -> bool:
    """Whether the kernel runs on torch's thread pool rather than on threads of its own."""
    return load_kernel().torch_pool is not None
