"""The libraries of the extra ``onnx``, imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from qmamba.errors import QMambaError

NEEDED = ("onnx", "onnxscript", "onnxruntime")
_OLDEST_TORCH = (2, 8)


def require_libraries() -> None:
    """Find out before any work whether all that an export needs is there.

    Raises:
        QMambaError: a library of the extra is missing, or torch is older than 2.8.
    """
    for name in NEEDED:
        library(name)
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < _OLDEST_TORCH:
        raise QMambaError(
            f"Exporting to ONNX needs torch 2.8 or newer, which can trace our scan as one node, "
            f"and this is torch {torch.__version__}; install a newer torch."
        )


def library(name: str) -> Any:
    """One of :data:`NEEDED`.

    Raises:
        QMambaError: it cannot be imported.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise QMambaError(
            f"ONNX files need the library {name} ({error}); run pip install 'qmamba[onnx]'."
        ) from error
