"""The block of MambaIRv2 prepared for inference on the CPU."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from qmamba.inference.layers import Convolution, Layer, LayerNorm, integer_weight
from qmamba.inference.packed import PackedLinear
from qmamba.nn import AttentiveBlock, AttentiveScan, ConvolutionalMlp, GatedMlp
from qmamba.nn.attentive_scan import along_route, chosen_classes
from qmamba.ops import class_route
from qmamba.ops.native.integer import IntegerCall
from qmamba.ops.native.prepared_scan import inference_scan

_USUAL_SIDE = 64
_SIZE = (_USUAL_SIDE, _USUAL_SIDE)


class Router:
    """The route of each image and the prompts of its pixels, in float32.

    Args:
        scan: where the weights come from.
        factor: the other factor of the prompts, ``(rank, states)``.
    """

    def __init__(self, scan: AttentiveScan, factor: Tensor) -> None:
        self._routing, self._seed = scan.routing, scan.seed
        self._router = copy.deepcopy(scan.route).float()
        self._table = (scan.embeddingB.weight.float() @ factor.float()).detach()

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(batch, height, width, dim)`` to int32 ``(batch, 1, pixels)`` and
        ``(batch, pixels, states)``."""
        pixels = x.flatten(1, 2).float()
        classes = chosen_classes(self._router, pixels, self._routing, self._seed)
        route = class_route(classes)
        return route, along_route(self._table[classes], route)


class PreparedAttentiveBlock:
    """A block on ``(batch, height, width, dim)``, whose sides are multiples of the window.

    Args:
        block: where the weights come from.
        dtype: of the maps inside.
        timed: see :func:`qmamba.inference.preparation.prepare`.
        integers: run linear layers on 8-bit integers.
    """

    def __init__(
        self, block: AttentiveBlock, dtype: torch.dtype, timed: bool, integers: bool
    ) -> None:
        def packed(weight: Tensor, bias: Tensor | None) -> PackedLinear | IntegerCall:
            weight = weight.flatten(1)
            if integers:
                return IntegerCall(integer_weight(weight, bias))
            return PackedLinear(weight.to(dtype), bias, _USUAL_SIDE**2, timed=timed)

        norms = (block.norm1, block.norm2, block.norm3, block.norm4)
        self._norms = [LayerNorm(norm, dtype) for norm in norms]
        self._scales = [
            scale.detach().to(dtype, copy=True) for scale in (block.scale1, block.scale2)
        ]
        self._qkv = packed(block.wqkv.weight, block.wqkv.bias)
        self._attention = copy.deepcopy(block.win_mhsa).to(dtype)
        self._proj = packed(block.win_mhsa.proj.weight, block.win_mhsa.proj.bias)
        self._feed_forwards = [
            _FeedForward(
                net,
                dtype,
                packed(net.fc1.weight, net.fc1.bias),
                packed(net.fc2.weight, net.fc2.bias),
            )
            for net in (block.convffn1, block.convffn2)
        ]
        scan, inner = block.assm, block.assm.selectiveScan
        self._router = Router(scan, block.embeddingA.weight)
        enter, gate = cast(nn.Conv2d, scan.in_proj[0]), cast(nn.Conv2d, scan.CPE[0])
        self._enter = packed(enter.weight, enter.bias)
        self._gate = Convolution(gate, dtype, _SIZE)
        self._project = packed(inner.x_proj_weight.flatten(0, 1), None)
        self._states = inner.state_size
        self._scan = inference_scan(
            inner.dt_projs_weight,
            inner.dt_projs_bias,
            -torch.exp(inner.A_logs.float())[None],
            inner.Ds[None],
            norm=scan.out_norm,
        )
        self._out = packed(scan.out_proj.weight, scan.out_proj.bias)

    def __call__(self, x: Tensor) -> Tensor:
        mixed = self._attention.mix(self._qkv(self._norms[0](x))).contiguous()
        y = self._proj(mixed, residual=x)
        y = self._feed_forwards[0](self._norms[1](y), y)
        x = y.addcmul_(x, self._scales[0])
        y = self._out(self._scanned(self._norms[2](x)), residual=x)
        y = self._feed_forwards[1](self._norms[3](y), y)
        return y.addcmul_(x, self._scales[1])

    def _scanned(self, x: Tensor) -> Tensor:
        route, prompts = self._router(x)
        y = self._enter(x)
        y = y.mul_(self._gate(y).sigmoid_())
        pixels = y.flatten(1, 2).contiguous()
        projected = self._project(pixels).float()
        projected[..., -self._states :] += prompts
        return self._scan(pixels, projected[:, :, None], route).view(y.shape)


class _FeedForward:
    """A feed-forward net and the addition of a residual."""

    def __init__(
        self,
        net: ConvolutionalMlp | GatedMlp,
        dtype: torch.dtype,
        enter: PackedLinear | IntegerCall,
        leave: PackedLinear | IntegerCall,
    ) -> None:
        self._enter, self._leave = enter, leave
        self._norm: Layer | None = None
        if isinstance(net, GatedMlp):
            self._norm = LayerNorm(net.sg.norm, dtype)
            self._convolution = Convolution(net.sg.conv, dtype, _SIZE)
        else:
            self._convolution = Convolution(net.convolution, dtype, _SIZE, "gelu")

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        hidden = self._enter(x, gelu=True)
        if self._norm is None:
            hidden = self._convolution(hidden).add_(hidden)
        else:
            kept, gate = hidden.chunk(2, dim=-1)
            hidden = self._convolution(self._norm(gate.contiguous())).mul_(kept)
        return self._leave(hidden.contiguous(), residual=residual)
