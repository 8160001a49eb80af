"""Where what lies in a packed file: the names, shapes and widths of its codes and numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from qmamba.checkpoints.bit_packing import packed_size
from qmamba.quantization.layers import FrozenTensor
from qmamba.quantization.quantizers import Quantizer

REST_DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
"""What the tensors that are not quantized may be stored as."""


@dataclass(frozen=True)
class PackedLayout:
    """Names and shapes of what the three tensors hold, in order."""

    codes: dict[str, tuple[tuple[int, ...], int]]
    """Shape and bits of the codes of each constant."""
    numbers: dict[str, tuple[int, ...]]
    rest: dict[str, tuple[int, ...]]
    initialized: tuple[str, ...]
    """Flags of the quantizers, which are all set and not stored."""

    @classmethod
    def of(cls, model: nn.Module) -> PackedLayout:
        """The layout of a converted model, which may have no memory."""
        layout = cls({}, {}, {}, ())
        owners = dict(model.named_modules())
        initialized = []
        for key, tensor in sorted(model.state_dict().items()):
            name, _, last = key.rpartition(".")
            owner, shape = owners[name], tuple(tensor.shape)
            if isinstance(owner, FrozenTensor) and last == "codes":
                layout.codes[key] = shape, owner.bits
            elif isinstance(owner, Quantizer) and last == "initialized":
                initialized.append(key)
            elif isinstance(owner, FrozenTensor | Quantizer):
                layout.numbers[key] = shape
            else:
                layout.rest[key] = shape
        return dataclasses.replace(layout, initialized=tuple(initialized))

    def entries(self) -> list[str]:
        """One text for each constant and tensor."""
        parts: dict[str, Mapping[str, object]] = {
            "codes": self.codes,
            "numbers": self.numbers,
            "rest": self.rest,
        }
        return [
            f"{key} ({name} {value})" for name, part in parts.items() for key, value in part.items()
        ]

    def digest(self) -> str:
        """Of all names, shapes and widths, in hexadecimal."""
        return hashlib.sha256("\n".join(self.entries()).encode()).hexdigest()

    def sizes(self) -> dict[str, int]:
        """Elements of the three tensors."""
        return {
            "codes": sum(packed_size(math.prod(s), bits) for s, bits in self.codes.values()),
            "numbers": sum(map(math.prod, self.numbers.values())),
            "rest": sum(map(math.prod, self.rest.values())),
        }

    def nbytes(self, rest: str = "fp16") -> dict[str, int]:
        """Bytes of the three tensors; the file has about 2 KB more, for its header.

        Args:
            rest: what the tensors that are not quantized are stored as, see :data:`REST_DTYPES`.
        """
        width = {"codes": 1, "numbers": 4, "rest": REST_DTYPES[rest].itemsize}
        return {name: size * width[name] for name, size in self.sizes().items()}
