"""The C++ kernel as operators of ONNX Runtime, which exported files then run on."""

from __future__ import annotations

from pathlib import Path

from qmamba.errors import BackendError
from qmamba.ops.native.library import load_kernel


def operator_library() -> Path:
    """The library to register in a session, so that exported files run on the C++ kernel.

    The file is the same: the session takes the registered operator instead of the body that the
    file carries. The library needs neither torch nor Python, and may be copied elsewhere. It
    computes a scan on one thread.

    Raises:
        BackendError: the kernel was not built at installation, or from older sources.

    Example:
        >>> import onnxruntime
        >>> from qmamba.interop.onnx import operator_library
        >>> options = onnxruntime.SessionOptions()
        >>> options.register_custom_ops_library(str(operator_library()))
    """
    library = load_kernel().library
    if not hasattr(library, "RegisterCustomOps"):
        raise BackendError(
            "The C++ kernel was built from older sources, without operators for ONNX Runtime; "
            "reinstall qmamba."
        )
    return Path(library._name)
