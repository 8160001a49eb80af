"""The scan for inference: parameters packed once, the norm after the merge fused in.

What it trades: no gradients, no tracing, and the parameters are those of the moment of packing. In
return a call costs nothing but the kernel, and the merged map is normalized while it is in cache.
Where another scan than the kernel is live on the CPU, the same call goes to that one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.ops.native.handover import address, new, point
from qmamba.ops.native.library import load_kernel
from qmamba.ops.native.scan_call import PackedParameters, ScanCall
from qmamba.ops.scan.dispatch import kernel_is_live, ss2d

Buffer: TypeAlias = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""Makes a contiguous tensor of any content."""


def inference_scan(
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    *,
    norm: nn.LayerNorm | None = None,
    merge: bool = True,
) -> PackedScan | UnpackedScan:
    """The prepared form of the scan that is live on the CPU now; see :class:`PackedScan`.

    Raises:
        BackendError: ``QMAMBA_BACKEND`` names an unknown implementation.
    """
    kind = PackedScan if kernel_is_live() else UnpackedScan
    return kind(dt_weight, dt_bias, A, D, norm=norm, merge=merge)


class UnpackedScan:
    """What :class:`PackedScan` does, by :func:`qmamba.ops.ss2d` on whichever backend is live."""

    def __init__(
        self,
        dt_weight: Tensor,
        dt_bias: Tensor,
        A: Tensor,
        D: Tensor,
        *,
        norm: nn.LayerNorm | None = None,
        merge: bool = True,
    ) -> None:
        self._parameters = [t.detach().float().clone() for t in (dt_weight, dt_bias, A, D)]
        self._merge = merge
        self._norm: tuple[Tensor, Tensor, float] | None = None
        if norm is not None:
            weight, bias = (t.detach().float().clone() for t in (norm.weight, norm.bias))
            self._norm = weight, bias, norm.eps

    @torch.no_grad()
    def __call__(
        self, x: Tensor, projected: Tensor, routes: Tensor, out: Buffer | None = None
    ) -> Tensor:
        """Scan a map; arguments and result as for :class:`PackedScan`, the result fresh."""
        y = ss2d(x, projected, routes, *self._parameters, merge=self._merge)
        if self._norm is None:
            return y
        weight, bias, epsilon = self._norm
        weight, bias = weight.to(y.dtype), bias.to(y.dtype)
        return F.layer_norm(y, weight.shape, weight, bias, epsilon)


class PackedScan:
    """:func:`qmamba.ops.ss2d` with fixed parameters on the CPU, optionally followed by layer norm.

    Args:
        dt_weight, dt_bias, A, D: as for :func:`qmamba.ops.ss2d`.
        norm: layer norm over the channels of the merged map, or ``None``.
        merge: sum the routes; a norm needs it.

    Raises:
        BackendError: the kernel was not built or does not load.
    """

    def __init__(
        self,
        dt_weight: Tensor,
        dt_bias: Tensor,
        A: Tensor,
        D: Tensor,
        *,
        norm: nn.LayerNorm | None = None,
        merge: bool = True,
    ) -> None:
        self._kernel = load_kernel()
        self._merge = merge
        with torch.no_grad():
            packed = PackedParameters.pack(dt_weight, dt_bias, A, D, merge)
            self._parameters = PackedParameters(*(tensor.clone() for tensor in packed))
        self._norm: dict[str, Tensor] = {}
        self._epsilon = 0.0
        if norm is not None:
            self._norm = {
                "norm_weight": norm.weight.detach().to(torch.float32, copy=True),
                "norm_bias": norm.bias.detach().to(torch.float32, copy=True),
            }
            self._epsilon = norm.eps

    @torch.no_grad()
    def __call__(
        self, x: Tensor, projected: Tensor, routes: Tensor, out: Buffer | None = None
    ) -> Tensor:
        """Scan a map.

        Args:
            x: float32 or bfloat16 ``(batch, pixels, channels)``, contiguous.
            projected: float32 ``(batch, pixels, routes, rank + 2 * states)``, contiguous.
            routes: int32 ``(routes, steps)``, or with a batch axis before; contiguous.
            out: makes the tensor for the result, of a shape and a dtype; fresh without it.

        Returns:
            ``(batch, pixels, channels)``, or with a routes axis unmerged, in the dtype of ``x``.
        """
        scan = ScanCall(x, projected, routes, self._parameters, merge=self._merge, softplus=True)
        channels = (scan.call.channels,)
        shape = tuple(scan.map_shape)
        y = new(*shape, dtype=x.dtype) if out is None else out(shape, x.dtype)
        scan.call.y = address("out", y, shape, x.dtype)
        point(scan.call, **{name: (tensor, channels) for name, tensor in self._norm.items()})
        scan.call.norm_epsilon = self._epsilon
        self._kernel.run_scan(scan.call, backward=False)
        return y
