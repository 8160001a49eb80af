"""Image quality assessment and quantized image restoration with state space models.

The public names below are imported on first use, so that `import qmamba` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmamba.assess import Score, Scorer
    from qmamba.checkpoints import load
    from qmamba.interop.onnx import export_onnx
    from qmamba.models import create_model, list_models
    from qmamba.ops import selective_scan, ss2d
    from qmamba.quantization import QuantConfig, quantize_
    from qmamba.restore import RestoredImage, Restorer

__version__ = "0.2.0"

__all__ = [
    "QuantConfig",
    "RestoredImage",
    "Restorer",
    "Score",
    "Scorer",
    "__version__",
    "create_model",
    "export_onnx",
    "list_models",
    "load",
    "quantize_",
    "selective_scan",
    "ss2d",
]

_HOMES = {
    "QuantConfig": "qmamba.quantization",
    "RestoredImage": "qmamba.restore",
    "Restorer": "qmamba.restore",
    "Score": "qmamba.assess",
    "Scorer": "qmamba.assess",
    "create_model": "qmamba.models",
    "export_onnx": "qmamba.interop.onnx",
    "list_models": "qmamba.models",
    "load": "qmamba.checkpoints",
    "quantize_": "qmamba.quantization",
    "selective_scan": "qmamba.ops",
    "ss2d": "qmamba.ops",
}


# Hidden from type checkers, for which any name would exist here otherwise.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
