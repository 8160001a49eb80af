"""Networks as ONNX files that need no code of ours: ``pip install 'qmamba[onnx]'``.

:func:`export_onnx` (and ``qmamba export``) writes a file of standard operators, runs it in ONNX
Runtime at sizes that it was not traced at, and keeps it only if it computes what the network does.
"""

from qmamba.interop.onnx.export import DEFAULT_OPSET, OPSETS, export_onnx
from qmamba.interop.onnx.operators import operator_library
from qmamba.interop.onnx.verification import TOLERANCE, Comparison, ExportReport

__all__ = [
    "DEFAULT_OPSET",
    "OPSETS",
    "TOLERANCE",
    "Comparison",
    "ExportReport",
    "export_onnx",
    "operator_library",
]
