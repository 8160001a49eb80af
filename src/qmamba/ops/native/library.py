"""The door to the compiled C++ kernel: finding it, describing a call to it, and running one.

The library has a plain C interface (``native/scan.h``) and is loaded with ctypes, so one build
serves every torch and Python version. It shares torch's own thread pool where libtorch exports it
(torch >= 2.10), and starts its own threads elsewhere; both follow ``torch.get_num_threads()``.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qmamba.errors import BackendError

INSTRUCTION_SET_VARIABLE = "QMAMBA_INSTRUCTION_SET"
LANES = {"baseline": 4, "avx2": 8, "avx512": 16}
CHANNEL_MULTIPLE = 16
_KEPT_WORKSPACE_BYTES = 256 * 2**20
_POINTERS = (
    *("x", "projected", "delta", "order", "dt_weight", "dt_bias", "decay", "skip"),
    *("norm_weight", "norm_bias", "grad_y"),
    *("y", "states_saved", "grad_x", "grad_delta", "grad_projected", "grad_dt_weight"),
    *("grad_dt_bias", "grad_decay", "grad_skip", "workspace"),
)
_SIZES = ("batch", "pixels", "steps", "channels", "padded", "routes", "rank", "states")
_FLAGS = ("dtype", "shared", "merged", "softplus")


class Call(ctypes.Structure):
    """Mirror of ``qmamba_scan`` in ``native/scan.h``."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in _POINTERS]
        + [(name, ctypes.c_int64) for name in _SIZES]
        + [("norm_epsilon", ctypes.c_float)]
        + [(name, ctypes.c_int32) for name in _FLAGS]
    )


class Kernel:
    """The loaded library, the thread pool it shares, and the instruction set in use."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        for name in ("qmamba_forward", "qmamba_backward"):
            function = getattr(library, name)
            function.argtypes = [
                ctypes.POINTER(Call),
                ctypes.c_void_p,
                ctypes.c_int32,
                ctypes.c_int32,
            ]
            function.restype = None
        library.qmamba_workspace.argtypes = [
            ctypes.POINTER(Call),
            ctypes.c_int32,
            ctypes.c_int32,
        ]
        library.qmamba_workspace.restype = ctypes.c_int64
        library.qmamba_integer_linear.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int32,
            ctypes.c_int32,
        ]
        library.qmamba_integer_linear.restype = None
        library.qmamba_integer_workspace.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        library.qmamba_integer_workspace.restype = ctypes.c_int64
        library.qmamba_quantized_floats.argtypes = [ctypes.c_void_p]
        library.qmamba_quantized_floats.restype = ctypes.c_int64
        # A library that was built from older sources may lack these.
        self.rounds = hasattr(library, "qmamba_threshold_round")
        library.qmamba_segment.restype = ctypes.c_int64
        self.segment = int(library.qmamba_segment())
        self.torch_pool = _torch_parallel_for()
        self.lanes = _choose_lanes(int(library.qmamba_lanes()))
        # A set that is asked for by name is that set alone.
        self.dot_products = not os.environ.get(INSTRUCTION_SET_VARIABLE)
        self._kept = threading.local()

    @property
    def instruction_set(self) -> str:
        return next(name for name, lanes in LANES.items() if lanes == self.lanes)

    def run(self, name: str, call: Call) -> None:
        """Fill in the workspace and run one pass."""
        threads = torch.get_num_threads()
        backward = name == "qmamba_backward"
        size = int(self.library.qmamba_workspace(ctypes.byref(call), threads, backward))
        workspace = self._workspace(size)
        call.workspace = workspace.data_ptr()
        getattr(self.library, name)(ctypes.byref(call), self.torch_pool, threads, self.lanes)

    def run_rounding(self, name: str, call: ctypes.Structure) -> None:
        """Run one of the functions of ``native/rounding_main.cpp``; some need no threads."""
        getattr(self.library, f"qmamba_{name}")(ctypes.byref(call), self.torch_pool, self.lanes)

    def run_integer(self, call: ctypes.Structure) -> None:
        """Fill in the workspace of a call on integers and run it."""
        threads = torch.get_num_threads()
        size = int(self.library.qmamba_integer_workspace(ctypes.byref(call), threads))
        call.workspace = (self._workspace(size).data_ptr() + 63) // 64 * 64
        lanes = self.lanes if self.dot_products else -self.lanes
        self.library.qmamba_integer_linear(ctypes.byref(call), self.torch_pool, threads, lanes)

    def run_quantized(self, name: str, call: ctypes.Structure) -> None:
        """Run one of the passes of ``native/quantized.h``: ``operand``, ``steps``, ..."""
        function = getattr(self.library, f"qmamba_run_{name}")
        function(ctypes.byref(call), self.torch_pool, torch.get_num_threads(), self.lanes)

    def run_quantized_scan(self, call: Any) -> None:
        """Fill in the workspace and the tables of a scan with looked-up decays and run it."""
        threads = torch.get_num_threads()
        sums = int(self.library.qmamba_workspace(ctypes.byref(call.scan), threads, 0))
        tables = 4 * int(self.library.qmamba_quantized_floats(ctypes.byref(call)))
        workspace = self._workspace(sums + tables + 128)
        begin = (workspace.data_ptr() + 63) // 64 * 64
        call.tables, call.scan.workspace = begin, begin + (tables + 63) // 64 * 64
        self.run_quantized("quantized_scan", call)

    def _workspace(self, size: int) -> Tensor:
        # Fresh large blocks cost a page fault per page on each call.
        kept: Tensor | None = getattr(self._kept, "workspace", None)
        if kept is not None and kept.numel() >= size:
            return kept
        workspace = torch.empty(size, dtype=torch.uint8)
        if size <= _KEPT_WORKSPACE_BYTES:
            self._kept.workspace = workspace
        return workspace


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
                    return Kernel(ctypes.CDLL(str(path)))
                except OSError as error:
                    return f"the compiled kernel does not load on this machine ({error})"
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


def round_up(channels: int) -> int:
    return (channels + CHANNEL_MULTIPLE - 1) // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE


def padded(parameter: Tensor) -> Tensor:
    """float32, contiguous, last axis zero-padded to the multiple that the kernel reads."""
    missing = -parameter.shape[-1] % CHANNEL_MULTIPLE
    return torch.nn.functional.pad(parameter.float(), (0, missing)).contiguous()


class PackedParameters(NamedTuple):
    """The parameters of a scan as the kernel reads them: float32, channels last and padded."""

    dt_weight: Tensor
    """``(routes, rank, padded)``."""
    dt_bias: Tensor
    """``(routes, padded)``."""
    decay: Tensor
    """``(routes, states, padded)``: A / log(2)."""
    skip: Tensor
    """``(routes, padded)``, or ``(padded)``, the sum over routes, for a merged scan."""

    @classmethod
    def pack(
        cls, dt_weight: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor, merge: bool
    ) -> PackedParameters:
        """From the layout of :func:`qmamba.ops.ss2d`."""
        return cls(
            dt_weight=padded(dt_weight.transpose(1, 2)),
            dt_bias=padded(dt_bias),
            decay=padded(A.transpose(1, 2) / math.log(2)),
            skip=padded(D.sum(0) if merge else D),
        )


class ScanCall:
    """One call's description together with the packed tensors that it points into."""

    def __init__(
        self,
        x: Tensor,
        projected: Tensor,
        order: Tensor,
        parameters: PackedParameters,
        *,
        merge: bool,
        softplus: bool,
    ) -> None:
        self._held: list[Tensor] = []
        weight, decay = parameters.dt_weight, parameters.decay
        self.call = Call(
            batch=x.shape[0],
            pixels=x.shape[-2],
            steps=order.shape[1],
            channels=x.shape[-1],
            padded=decay.shape[2],
            routes=order.shape[0],
            rank=weight.shape[1],
            states=decay.shape[1],
            dtype=int(x.dtype == torch.bfloat16),
            shared=int(x.dim() == 3),
            merged=int(merge),
            softplus=int(softplus),
        )
        self.point(
            x=x,
            projected=projected,
            order=order,
            dt_weight=weight,
            dt_bias=parameters.dt_bias,
            decay=decay,
            skip=parameters.skip,
        )

    def point(self, **tensors: Tensor) -> None:
        """Hand tensors to the kernel by the names of ``native/scan.h``; they are kept alive."""
        for name, tensor in tensors.items():
            assert tensor.is_contiguous(), name
            self._held.append(tensor)
            setattr(self.call, name, tensor.data_ptr())
