"""Signed codes of 2, 3, 4 or 8 bits in as few bytes as they need.

A code is stored as its distance from the lowest one, most significant bit first, without gaps: n
codes of b bits take ``ceil(n b / 8)`` bytes whose last bits are zero.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qmamba.errors import ConfigError, ShapeError
from qmamba.quantization.qparams import BITS


def packed_size(count: int, bits: int) -> int:
    """Bytes that ``count`` codes of ``bits`` bits take.

    Raises:
        ConfigError: the width is none of :data:`BITS`.
    """
    _check_width(bits)
    return (count * bits + 7) // 8


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes in row-major order.

    Args:
        codes: int8 of any shape on the CPU, from ``-2**(bits - 1)`` to ``2**(bits - 1) - 1``.
        bits: width of a code, one of :data:`BITS`.

    Returns:
        uint8 ``(packed_size,)``.

    Raises:
        ConfigError: the width is another one.
        ShapeError: the codes are not int8, or one is outside its range.
    """
    _check_width(bits)
    if codes.dtype != torch.int8:
        raise ShapeError(f"Codes to be packed must be int8, got {codes.dtype}.")
    lowest = -(1 << (bits - 1))
    unsigned = codes.detach().flatten().numpy().astype(np.int16) - lowest
    if unsigned.size and not 0 <= int(unsigned.min()) <= int(unsigned.max()) < 1 << bits:
        raise ShapeError(
            f"Codes of {bits} bits go from {lowest} to {-lowest - 1}, got "
            f"{int(codes.min())} to {int(codes.max())}."
        )
    bytes_of_codes = unsigned.astype(np.uint8)
    if bits == 8:
        return torch.from_numpy(bytes_of_codes)
    planes = np.unpackbits(bytes_of_codes[:, None], axis=1)[:, 8 - bits :]
    return torch.from_numpy(np.packbits(planes.reshape(-1)))


def unpack(packed: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """The codes that :func:`pack` packed.

    Args:
        packed: uint8 ``(packed_size,)`` on the CPU.
        bits: width of a code.
        shape: of the codes.

    Returns:
        int8 of that shape.

    Raises:
        ConfigError: the width is none of :data:`BITS`.
        ShapeError: the bytes are not those of so many codes, or bits after the last one are set.
    """
    count = 1
    for side in shape:
        count *= side
    size = packed_size(count, bits)
    if packed.dtype != torch.uint8 or tuple(packed.shape) != (size,):
        raise ShapeError(
            f"{count} codes of {bits} bits take uint8 ({size},), got {packed.dtype} "
            f"{tuple(packed.shape)}."
        )
    content = packed.numpy()
    if bits == 8:
        unsigned = content
    elif 8 % bits == 0:
        unsigned = _split_bytes(content, bits)
    else:
        digits = np.unpackbits(content)
        if digits[count * bits :].any():
            raise ShapeError(_TRAILING)
        weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint8)
        unsigned = digits[: count * bits].reshape(count, bits) @ weights
    if unsigned[count:].any():
        raise ShapeError(_TRAILING)
    lowest = 1 << (bits - 1)
    # In eight bits, taking the lowest code away wraps around to the signed value.
    return torch.from_numpy((unsigned[:count] - np.uint8(lowest)).view(np.int8).reshape(shape))


_TRAILING = "Bits after the last packed code are set, so these bytes were not packed as codes."


def _split_bytes(content: np.ndarray, bits: int) -> np.ndarray:
    """All codes of bytes that hold a whole number of them, without a detour over single bits."""
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    return ((content[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)


def _check_width(bits: int) -> None:
    if bits not in BITS:
        raise ConfigError(f"Codes have 2, 3, 4 or 8 bits, not {bits!r}.")
