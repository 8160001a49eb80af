"""Vectors and lists of names out of MATLAB files, through SciPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmamba.errors import DataError


def mat_vector(path: Path, key: str, length: int) -> NDArray[np.float64]:
    """A vector of numbers, float64 of shape (length,).

    Raises:
        DataError: SciPy is not installed, or the file or the variable is missing or different.
    """
    value = _variable(path, key)
    if value.dtype.kind not in "biuf" or value.size != length:
        raise DataError(
            f"The variable {key!r} of {str(path)!r} holds {value.size} values of kind"
            f" {value.dtype} where {length} numbers are expected; get the original file."
        )
    vector = value.reshape(-1).astype(np.float64)
    if not np.isfinite(vector).all():
        position = int(np.flatnonzero(~np.isfinite(vector))[0]) + 1
        raise DataError(
            f"value {position} of {key!r} in {str(path)!r} is not a finite number; get the"
            " original file"
        )
    return vector


def mat_names(path: Path, key: str, length: int) -> list[str]:
    """A cell array of texts.

    Raises:
        DataError: SciPy is not installed, or the file or the variable is missing or different.
    """
    value = _variable(path, key)
    names = [_unpacked(cell) for cell in value.reshape(-1)]
    texts = [name.strip() for name in names if isinstance(name, str)]
    if len(texts) != length or len(names) != length:
        raise DataError(
            f"The variable {key!r} of {str(path)!r} holds {len(texts)} texts where {length} are"
            " expected; get the original file."
        )
    return texts


def _variable(path: Path, key: str) -> NDArray[Any]:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DataError(
            f'reading {str(path)!r} needs SciPy; run pip install "qmamba[train]"'
        ) from None
    if not path.is_file():
        raise DataError(f"The label file {str(path)!r} is missing; put it there.")
    try:
        content = loadmat(path, variable_names=[key])
    except Exception as error:
        # SciPy lets out whatever a damaged file leads to: ValueError, TypeError, zlib.error, ...
        raise DataError(
            f"{str(path)!r} is not a readable MATLAB file of version 5 ({error}); get it again"
        ) from error
    if key not in content:
        raise DataError(
            f"{str(path)!r} has no variable {key!r}; get the original file of the data set"
        )
    return np.asarray(content[key])


def _unpacked(cell: object) -> object:
    while isinstance(cell, np.ndarray) and cell.size == 1:
        cell = cell.reshape(-1)[0]
    return str(cell) if isinstance(cell, str) else cell
