"""Self-attention inside square windows of a map, as in Swin Transformer and SwinIR."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.nn.initialization import linear, module_kwargs

_OUTSIDE = -100.0
"""Added to the attention between pixels that the shift has brought together; not minus infinity,
because the official networks were trained with this."""


class WindowAttention(nn.Module):
    """Attention among the pixels of each window, with a learned bias for every relative position.

    A shift cuts the windows half a window further; those that then reach over the border are made
    of up to four parts that do not see each other.

    Args:
        dim: channels.
        heads: of the attention; they divide ``dim``.
        window: side of the windows in pixels.
        shift: by how many pixels the windows are moved, less than ``window``; 0 for none.

    Source: Swin Transformer (Liu et al., 2021); names of the parameters as in MambaIRv2.
    """

    def __init__(self, dim: int, *, heads: int, window: int, shift: int = 0) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * window - 1) ** 2, heads, **module_kwargs())
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.proj = linear(dim, dim)

    def forward(self, qkv: Tensor) -> Tensor:
        """Mix the pixels.

        Args:
            qkv: queries, keys and values ``(batch, height, width, 3 * dim)``; both sides are
                multiples of the window.

        Returns:
            ``(batch, height, width, dim)``.
        """
        return self.proj(self.mix(qkv))

    def mix(self, qkv: Tensor) -> Tensor:
        """:meth:`forward` without its last linear layer."""
        window, shift = self.window, self.shift
        if shift:
            qkv = qkv.roll((-shift, -shift), (1, 2))
        windows = qkv.unflatten(2, (-1, window)).unflatten(1, (-1, window))
        # (3, batch, rows, columns, heads, pixels of a window, channels of a head)
        parts = windows.unflatten(-1, (3, self.heads, -1)).permute(5, 0, 1, 3, 6, 2, 4, 7)
        mixed = self._attend(parts.flatten(5, 6))
        mixed = mixed.unflatten(4, (window, window)).permute(0, 1, 4, 2, 5, 3, 6)
        mixed = mixed.flatten(5, 6).flatten(3, 4).flatten(1, 2)
        return mixed.roll((shift, shift), (1, 2)) if shift else mixed

    def _attend(self, qkv: Tensor) -> Tensor:
        bias = self.bias()
        if not self.shift:
            return _attention(qkv, bias)
        # Only the last row and column of windows have parts, so there are four masks and not one
        # for each window.
        apart = _apart(self.window, self.shift, str(qkv.device)).to(bias.dtype)
        inner, last = slice(None, -1), slice(-1, None)
        rows = [
            torch.cat(
                [
                    _attention(qkv[:, :, vertical, horizontal], bias + apart[down, right])
                    for right, horizontal in enumerate((inner, last))
                ],
                dim=2,
            )
            for down, vertical in enumerate((inner, last))
        ]
        return torch.cat(rows, dim=1)

    def bias(self) -> Tensor:
        """What is added to the attention of each pair of pixels: ``(heads, pixels, pixels)``."""
        table = self.relative_position_bias_table
        index = _relative_positions(self.window, str(table.device))
        return table[index].permute(2, 0, 1)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, window={self.window}, shift={self.shift}"


def _attention(qkv: Tensor, bias: Tensor) -> Tensor:
    """``(3, batch, rows, columns, heads, pixels, channels)`` to the same without the first axis."""
    shape = qkv.shape[1:]
    if 0 in shape:
        return qkv.new_empty(shape)
    q, k, v = qkv.flatten(1, 3)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)[None]).view(shape)


@cache
def _relative_positions(window: int, device: str) -> Tensor:
    """Row of the bias table for each pair of pixels of a window, int64 ``(pixels, pixels)``."""
    with torch.inference_mode(False):
        side = torch.arange(window, dtype=torch.int64, device=device)
        row, column = side.repeat_interleave(window), side.repeat(window)
        down, right = (at[:, None] - at[None] + window - 1 for at in (row, column))
        return down * (2 * window - 1) + right


@cache
def _apart(window: int, shift: int, device: str) -> Tensor:
    """What keeps the parts of windows at the border apart, float32 ``(2, 2, pixels, pixels)``.

    The first axis is for windows of the last row, the second for those of the last column.
    """
    with torch.inference_mode(False):
        part = torch.arange(window, dtype=torch.int64, device=device) >= window - shift
        row, column = part.repeat_interleave(window), part.repeat(window)
        below, beside = (at[:, None] != at[None] for at in (row, column))
        none = torch.zeros_like(below)
        masks = torch.stack([none, beside, below, below | beside]).float() * _OUTSIDE
        return masks.unflatten(0, (2, 2))
