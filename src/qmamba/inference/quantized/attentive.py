"""The block of a converted MambaIRv2, on codes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from qmamba.inference.attentive import Router
from qmamba.inference.quantized.layers import NotPreparable, depthwise, linear
from qmamba.inference.quantized.mixer import projection_on_codes, scan_on_codes
from qmamba.nn import AttentiveBlock, ConvolutionalMlp, GatedMlp
from qmamba.ops.native.memory import Buffers
from qmamba.quantization.ss2d import QuantizedSelectiveScan


class QuantizedAttentiveBlock:
    """A block on ``(batch, height, width, dim)``; the attention and the router are in float32.

    Args:
        block: the converted block.
        buffers: where intermediate results go.

    Raises:
        NotPreparable: the kernel does not compute the layers.
    """

    def __init__(self, block: AttentiveBlock, buffers: Buffers) -> None:
        scan, inner = block.assm, block.assm.selectiveScan
        if not isinstance(inner, QuantizedSelectiveScan):
            raise NotPreparable
        self._buffers = buffers
        self._qkv = linear(block.wqkv, buffers, block.norm1)
        self._attention = block.win_mhsa
        self._proj = linear(block.win_mhsa.proj, buffers)
        self._scales = block.scale1.detach(), block.scale2.detach()
        self._feed_forwards = (
            _FeedForward(block.convffn1, buffers),
            _FeedForward(block.convffn2, buffers),
        )
        self._norms = block.norm2, block.norm3, block.norm4
        self._router = Router(scan, block.embeddingA.weight)
        self._enter = linear(scan.in_proj[0], buffers)
        self._gate = depthwise(scan.CPE[0])
        self._project = projection_on_codes(inner, buffers)
        self._states = inner.state_size
        self._out = linear(scan.out_proj, buffers)
        self._scan = scan_on_codes(inner, norm=scan.out_norm, output=self._out.rule)

    def __call__(self, x: Tensor) -> Tensor:
        mixed = self._attention.mix(self._qkv(x, name="qkv")).contiguous()
        y = self._proj(mixed, residual=x)
        y = self._feed_forwards[0](self._norms[0](y), y)
        x = y.addcmul_(x, self._scales[0])
        y = self._scanned(self._norms[1](x), x)
        y = self._feed_forwards[1](self._norms[2](y), y)
        return y.addcmul_(x, self._scales[1])

    def _scanned(self, normalized: Tensor, x: Tensor) -> Tensor:
        route, prompts = self._router(normalized)
        y = self._enter(normalized)
        gate = self._gate(y, self._buffers("gate", tuple(y.shape)))
        pixels = y.mul_(gate.sigmoid_()).flatten(1, 2)
        projected = self._project(pixels, name="projected")
        projected[..., -self._states :] += prompts
        out = self._buffers("mixed", tuple(pixels.shape))
        scanned, qparams = self._scan(pixels, projected[:, :, None], route, out=out)
        return self._out(scanned.view(y.shape), qparams=qparams, residual=x)


class _FeedForward:
    """A feed-forward net and the addition of a residual."""

    def __init__(self, net: ConvolutionalMlp | GatedMlp, buffers: Buffers) -> None:
        self._fc1, self._fc2 = linear(net.fc1, buffers), linear(net.fc2, buffers)
        self._norm = net.sg.norm if isinstance(net, GatedMlp) else None
        if isinstance(net, GatedMlp):
            self._convolution = depthwise(net.sg.conv)
        else:
            self._convolution = depthwise(net.convolution, "gelu")

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        hidden = F.gelu(self._fc1(x, name="hidden"))
        if self._norm is None:
            hidden = self._convolution(hidden).add_(hidden)
        else:
            kept, gate = hidden.chunk(2, dim=-1)
            hidden = self._convolution(self._norm(gate)).mul_(kept)
        return self._fc2(hidden.contiguous(), residual=residual)
