"""Converted layers as calls of the C++ kernel on codes, on channel-last maps.

Each is made from a converted layer (:mod:`qmamba.quantization.layers`), holds its weights as 8-bit
codes and nothing else of them, and gives what the layer gives but for rounding in float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.ops.native.depthwise import WIDEST_WINDOW, DepthwiseConvolution
from qmamba.ops.native.handover import new
from qmamba.ops.native.integer import IntegerCall, PackedCodes
from qmamba.ops.native.memory import Buffers
from qmamba.ops.native.operands import (
    CodeGrid,
    Constant,
    QParamsRule,
    choose_qparams,
    fake_quantize_,
    quantize,
)
from qmamba.quantization.layers import FrozenTensor, QuantizedConv2d, QuantizedLinear
from qmamba.quantization.quantizers import DLS, DoReFa, Quantizer
from qmamba.quantization.quantizers.dls import OfficialDLS
from qmamba.quantization.quantizers.learned_step import LearnedStep
from qmamba.quantization.quantizers.rfa import RFA
from qmamba.quantization.quantizers.static import OfficialStatic

Layer: TypeAlias = Callable[[Tensor], Tensor]


class NotPreparable(Exception):
    """A layer is quantized in a way, or not at all, that the kernel does not compute."""


def constant(frozen: nn.Module | None) -> Constant:
    """A frozen constant as the kernel reads it."""
    if not isinstance(frozen, FrozenTensor) or frozen.codes.dtype != torch.int8:
        raise NotPreparable
    bounds = [bound for bound in (frozen.lowest, frozen.highest) if bound is not None]
    numbers = [float(cast(Tensor, n)) for n in (frozen.scale, frozen.offset, *bounds)]
    return Constant(frozen.codes.contiguous(), *numbers)


def qparams_rule(quantizer: Quantizer | None) -> QParamsRule:
    """Where the quantization parameters of an activation come from."""
    if isinstance(quantizer, OfficialDLS | OfficialStatic | RFA | None):
        raise NotPreparable
    first, last = quantizer.low, quantizer.high
    if isinstance(quantizer, DLS) and quantizer.statistics != "frozen":
        weights = torch.cat([quantizer.step_weights, quantizer.offset_weights]).detach().float()
        copies = quantizer.operand.copies
        return QParamsRule(quantizer.bits, weights=weights, copies=copies, first=first, last=last)
    if not isinstance(quantizer, DLS | LearnedStep) or (
        isinstance(quantizer, DoReFa) and quantizer.operand.role == "weight"
    ):
        raise NotPreparable
    qparams = quantizer.choose_qparams(torch.zeros(1, 1, dtype=torch.float32, device="cpu"))
    numbers = (qparams.scale, qparams.offset, *(qparams.clamp or ()))
    fixed = tuple(float(number) for number in numbers)
    return QParamsRule(quantizer.bits, fixed=fixed, first=first, last=last)


def static_rule(quantizer: Quantizer | None) -> QParamsRule:
    """The same, where the parameters must be fixed."""
    rule = qparams_rule(quantizer)
    if rule.fixed is None:
        raise NotPreparable
    return rule


class _FixedQParams:
    """Fixed quantization parameters as the integer kernel wants them: codes count from 0."""

    def __init__(self, rule: QParamsRule) -> None:
        assert rule.fixed is not None
        scale, offset = rule.fixed[0, :2]
        self.scale = scale.clone()
        self.offset = (offset - rule.first * scale).clone()
        self.highest = rule.last - rule.first
        self.grid = CodeGrid(float(self.scale), float(self.offset), 0, self.highest)


class Linear:
    """A linear layer, or a convolution of single pixels, with a norm before it if one is given.

    Rows are quantized while they are in the cache. Parameters that follow the image need a pass for
    its statistics first, unless they are known; where their bounds cut values off, the product is
    that of the fake-quantized values in float32.

    Args:
        weight: ``(outputs, inputs)``.
        bias: ``(outputs,)`` or ``None``.
        rule: where the quantization parameters of the input come from.
        norm: layer norm of the input, or ``None``.
        buffers: where intermediate results go.
    """

    def __init__(
        self,
        weight: Constant,
        bias: Tensor | None,
        rule: QParamsRule,
        norm: nn.LayerNorm | None,
        buffers: Buffers,
    ) -> None:
        self._buffers = buffers
        self._outputs = len(weight.codes)
        scale, offset = (_number(value) for value in (weight.scale, weight.offset))
        packed = PackedCodes(weight.codes, scale, offset if weight.offset else None, bias)
        self._weight, self._bias = weight, bias
        self._norm = norm if rule.fixed is None else None
        self._call = IntegerCall(packed, norm=None if rule.fixed is None else norm)
        self.rule = rule
        """Where the quantization parameters of the input come from."""
        self._given = None if rule.fixed is None else _FixedQParams(rule)
        self.reads: CodeGrid | None = None
        """What codes it takes in place of numbers, if any."""
        if self._given is not None and norm is None:
            self.reads = self._given.grid
        self.writes_codes = self._given is not None
        """Whether :meth:`codes` can be called."""

    def __call__(
        self,
        x: Tensor,
        *,
        qparams: Tensor | None = None,
        residual: Tensor | None = None,
        residual_scale: Tensor | None = None,
        name: str | None = None,
    ) -> Tensor:
        """``(batch, ..., inputs)`` to ``(batch, ..., outputs)``.

        Args:
            x: the rows, or codes that :attr:`reads` describes.
            qparams: of the images ``(batch, 4)``, if they are known.
            residual: added to the result.
            residual_scale: factors of the residual, ``(outputs,)``.
            name: of the buffer for the result; ``None`` for a fresh tensor.
        """
        out = None if name is None else self._buffers(name, (*x.shape[:-1], self._outputs))
        rule = self.rule
        if self._given is not None:
            scale, offset = self._given.scale, self._given.offset
        else:
            if self._norm is not None:
                x = self._norm(x)
            if qparams is None:
                qparams = choose_qparams(x.flatten(1, -2), rule)
            if rule.is_cut(qparams):
                return self._of_values(x, qparams, residual, residual_scale)
            scale, offset = qparams[:, 0], qparams[:, 1] - rule.first * qparams[:, 0]
            if len(x) == 1:
                scale, offset = scale[0], offset[0]
            else:
                along = (slice(None), *(None for _ in x.shape[2:]))
                scale, offset = (t[along].expand(x.shape[:-1]) for t in (scale, offset))
        highest = rule.last - rule.first
        return self._call(
            x,
            scale=scale,
            offset=offset,
            highest=highest,
            residual=residual,
            residual_scale=residual_scale,
            out=out,
        )

    def codes(
        self,
        x: Tensor,
        grid: CodeGrid,
        *,
        columns: int | None = None,
        gelu: bool = False,
        name: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The first outputs as codes of the layer that reads them, uint8 ``(..., columns)``, and
        the other ones.

        Args:
            x: as for a call.
            grid: what the codes stand for.
            columns: how many outputs, by default all.
            gelu: before the codes.
            name: of the buffers for the results; ``None`` for fresh tensors.
        """
        assert self._given is not None
        columns = self._outputs if columns is None else columns
        shapes = [(*x.shape[:-1], count) for count in (columns, self._outputs - columns)]
        if name is None:
            codes, rest = new(*shapes[0], dtype=torch.uint8), new(*shapes[1])
        else:
            codes = self._buffers(f"{name} codes", shapes[0], torch.uint8)
            rest = self._buffers(name, shapes[1])
        self._call(
            x,
            scale=self._given.scale,
            offset=self._given.offset,
            highest=self.rule.last - self.rule.first,
            gelu=gelu,
            out=rest,
            codes=codes,
            code_grid=grid,
        )
        return codes, rest

    def _of_values(
        self, x: Tensor, qparams: Tensor, residual: Tensor | None, residual_scale: Tensor | None
    ) -> Tensor:
        values = x.flatten(1, -2).clone()
        fake_quantize_(values, self.rule, qparams)
        y = F.linear(values, self._weight.dequantize(), self._bias).view(*x.shape[:-1], -1)
        if residual is None:
            return y
        return y.add_(residual if residual_scale is None else residual * residual_scale)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device="cpu")


def linear(layer: nn.Module, buffers: Buffers, norm: nn.LayerNorm | None = None) -> Linear:
    """From a linear layer or a convolution of single pixels."""
    if not isinstance(layer, QuantizedLinear | QuantizedConv2d):
        raise NotPreparable
    weight = constant(layer.frozen_weight)
    weight = weight.arranged(weight.codes.flatten(1))
    return Linear(weight, layer.bias, qparams_rule(layer.input_quantizer), norm, buffers)


class SquareConvolution:
    """A convolution without groups or dilation, padded to keep the map, with fixed
    quantization parameters.

    Patches reach outside the map, where the code is 0 but the value must be; what the codes there
    contributed is taken back from the results along the border.
    """

    def __init__(self, layer: QuantizedConv2d, buffers: Buffers) -> None:
        self._buffers = buffers
        side, stride = layer.kernel_size[0], layer.stride[0]
        if (
            layer.groups != 1
            or layer.kernel_size != (side, side)
            or layer.stride != (stride, stride)
            or layer.padding != (side // 2, side // 2)
            or layer.dilation != (1, 1)
            or side != 3
        ):
            raise NotPreparable
        weight = constant(layer.frozen_weight)
        self._rule = static_rule(layer.input_quantizer)
        self._given = _FixedQParams(self._rule)
        codes = weight.codes.permute(0, 2, 3, 1)
        scale, offset = (_number(value) for value in (weight.scale, weight.offset))
        packed = PackedCodes(
            codes.flatten(1).contiguous(), scale, offset if weight.offset else None, layer.bias
        )
        self._call = IntegerCall(packed, side=side, stride=stride)
        self._stride, self._outputs = stride, layer.out_channels
        # Sums of the weights of each tap, times the value that its code 0 stood for.
        taps = codes.sum(3, dtype=torch.int64) * scale - codes.shape[3] * offset
        taps = taps.permute(1, 2, 0) * self._given.offset
        self._rows = taps[0].sum(0), taps[2].sum(0)
        self._columns = taps[:, 0].sum(0), taps[:, 2].sum(0)
        self._corners = taps[::2, ::2].contiguous()

    def __call__(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """``(batch, height, width, channels)`` to the map at every ``stride`` pixels.

        Args:
            x: the map.
            name: of the buffer for the result; ``None`` for a fresh tensor.
        """
        batch, height, width, channels = x.shape
        codes = self._buffers("codes", (batch, height * width, channels), torch.uint8)
        quantize(x.flatten(1, 2), self._rule, codes)
        given = self._given
        sides = ((side - 1) // self._stride + 1 for side in (height, width))
        out = None if name is None else self._buffers(name, (batch, *sides, self._outputs))
        y = self._call(codes.view(x.shape), scale=given.scale, offset=given.offset, out=out)
        ends = [
            [0, side - 1] if (side - 1) * self._stride + 1 >= size else [0]
            for side, size in zip(y.shape[1:3], (height, width), strict=True)
        ]
        for which, row in enumerate(ends[0]):
            y[:, row] += self._rows[which]
        for which, column in enumerate(ends[1]):
            y[:, :, column] += self._columns[which]
            for corner, row in enumerate(ends[0]):
                y[:, row, column] -= self._corners[corner, which]
        return y


def depthwise(layer: nn.Module, activation: str | None = None) -> DepthwiseConvolution:
    """From a depthwise convolution that keeps the size of the map, and the activation after it."""
    if not isinstance(layer, QuantizedConv2d):
        raise NotPreparable
    side, dilation = layer.kernel_size[0], layer.dilation[0]
    if (
        layer.groups != layer.in_channels
        or layer.groups != layer.out_channels
        or layer.kernel_size != (side, side)
        or not side % 2
        or side > WIDEST_WINDOW
        or layer.stride != (1, 1)
        or layer.dilation != (dilation, dilation)
        or layer.padding != (side // 2 * dilation,) * 2
    ):
        raise NotPreparable
    rule = static_rule(layer.input_quantizer)
    weight = constant(layer.frozen_weight)
    return DepthwiseConvolution(weight, layer.bias, rule, dilation=dilation, activation=activation)


class Chain:
    """Convolutions with norms and activations between them, one after the other.

    A layer writes codes in place of numbers where the next one reads nothing else.

    Args:
        modules: the layers.
        buffers: where intermediate results go.
        places: two names there that results go to in turn, the last one to the first; or none for
            fresh tensors.
    """

    def __init__(
        self, modules: list[nn.Module], buffers: Buffers, places: tuple[str, ...] = ()
    ) -> None:
        self._layers: list[Layer] = []
        self._buffers, self._places = buffers, places
        skip = False
        for index, module in enumerate(modules):
            following = modules[index + 1] if index + 1 < len(modules) else None
            if skip:
                skip = False
            elif isinstance(module, nn.LayerNorm) and _is_pointwise(following):
                assert following is not None
                self._layers.append(linear(following, buffers, module))
                skip = True
            elif isinstance(module, QuantizedConv2d) and module.groups > 1:
                skip = isinstance(following, nn.GELU)
                self._layers.append(depthwise(module, "gelu" if skip else None))
            elif _is_pointwise(module):
                self._layers.append(linear(module, buffers))
            elif isinstance(module, QuantizedConv2d):
                self._layers.append(SquareConvolution(module, buffers))
            elif isinstance(module, nn.LayerNorm | nn.GELU | nn.LeakyReLU):
                self._layers.append(module)
            else:
                raise NotPreparable
        self._grids = [
            following.reads
            if isinstance(following, Linear | DepthwiseConvolution)
            and (isinstance(layer, DepthwiseConvolution) or _writes_codes(layer))
            else None
            for layer, following in itertools.pairwise([*self._layers, None])
        ]
        """Of the codes that each layer writes, if it does."""

    def __call__(self, x: Tensor) -> Tensor:
        """``(batch, height, width, channels)`` to the same layout."""
        steps = zip(self._layers, self._grids, strict=True)
        for left, (layer, grid) in zip(range(len(self._layers))[::-1], steps, strict=True):
            name = self._places[left % 2] if self._places else None
            if isinstance(layer, Linear):
                x = layer(x, name=name) if grid is None else layer.codes(x, grid, name=name)[0]
            elif isinstance(layer, DepthwiseConvolution):
                x = self._convolved(layer, x, grid, name)
            elif isinstance(layer, SquareConvolution):
                x = layer(x, name=name)
            else:
                x = layer(x)
        return x

    def _convolved(
        self, layer: DepthwiseConvolution, x: Tensor, grid: CodeGrid | None, name: str | None
    ) -> Tensor:
        dtype = torch.float32 if grid is None else torch.uint8
        shape = tuple(x.shape)
        out = new(*shape, dtype=dtype) if name is None else self._buffers(name, shape, dtype)
        if grid is None:
            return layer(x, out)
        return layer(x, codes=out, code_grid=grid, only_codes=True)


def _writes_codes(layer: Layer | None) -> bool:
    return isinstance(layer, Linear) and layer.writes_codes


def _is_pointwise(module: nn.Module | None) -> bool:
    return isinstance(module, QuantizedLinear) or (
        isinstance(module, QuantizedConv2d)
        and module.kernel_size == (1, 1)
        and module.groups == 1
        and module.stride == (1, 1)
    )


def padded_channels(codes: Tensor) -> Tensor:
    """The last axis zero-padded to the multiple of 16 that the kernel reads."""
    return F.pad(codes, (0, -codes.shape[-1] % 16)).contiguous()
