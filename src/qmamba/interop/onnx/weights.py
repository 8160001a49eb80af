"""Weights of 4 or 2 bits in a file; activations stay in float32.

Linear layers become ``com.microsoft::MatMulNBits``, an operator of ONNX Runtime, with a scale and a
real zero point for every 32 weights of an output. Convolutions of many inputs get weights of 4 bits
behind a ``DequantizeLinear``, which ONNX Runtime computes once when it loads the file: that makes
the file smaller and nothing else. Depthwise convolutions, the first layer and the head are few
weights on which much depends, and stay as they are.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

WEIGHT_BITS = (2, 4)
OLDEST_OPSET = 21
"""In which tensors of 4 bits are standard."""

_DOMAIN = "com.microsoft"
_BLOCK = 32
_FEWEST_WEIGHTS = 1024
_FEWEST_INPUTS = 64
_CONVOLUTION_BITS = 4
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)

Array = npt.NDArray[np.float32]


class Quantized(NamedTuple):
    """Rows of values as codes: ``(codes - zero) * scale``."""

    codes: npt.NDArray[np.uint8]
    """``(..., values)``, from 0 to ``2**bits - 1``."""
    scale: Array
    """``(..., 1)``, positive."""
    zero: Array
    """``(..., 1)``."""

    def values(self) -> Array:
        """What the codes stand for."""
        return (self.codes.astype(np.float32) - self.zero) * self.scale


def quantize_rows(values: Array, bits: int, *, whole_zero: bool = False) -> Quantized:
    """The codes of least squared error among ranges of several widths, for each row on its own.

    Args:
        values: ``(..., values)``.
        bits: 2 or 4.
        whole_zero: zero points are whole codes, so that 0 stays exactly 0.
    """
    top = 2**bits - 1
    low, high = (bound(values, axis=-1, keepdims=True) for bound in (np.min, np.max))
    if whole_zero:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    center, half = (high + low) / 2, (high - low) / 2
    best: Quantized | None = None
    least: npt.NDArray[np.float64] | None = None
    for shrink in _SHRINKS:
        scale = np.maximum(2 * shrink * half / top, np.float32(1e-10)).astype(np.float32)
        zero = -(center - shrink * half) / scale
        if whole_zero:
            zero = np.clip(np.round(zero), 0, top)
        zero = zero.astype(np.float32)
        codes = np.clip(np.round(values / scale + zero), 0, top).astype(np.uint8)
        found = Quantized(codes, scale, zero)
        error = np.square(found.values() - values).sum(-1, keepdims=True, dtype=np.float64)
        if best is None or least is None:
            best, least = found, error
        else:
            better = error < least
            best = Quantized(
                np.where(better, found.codes, best.codes),
                np.where(better, found.scale, best.scale),
                np.where(better, found.zero, best.zero),
            )
            least = np.minimum(error, least)
    assert best is not None
    return best


def with_weight_bits(file: ModelProto, bits: int) -> tuple[ModelProto, ModelProto]:
    """A file with packed weights, and one in float32 whose weights have the same values.

    Args:
        file: in float32, for opset 21 or newer; it stays as it is.
        bits: one of :data:`WEIGHT_BITS`.
    """
    packed, plain = copy.deepcopy(file), copy.deepcopy(file)
    initializers = {tensor.name: tensor for tensor in packed.graph.initializer}
    values = {tensor.name: tensor for tensor in plain.graph.initializer}
    users: dict[str, int] = {}
    for node in packed.graph.node:
        for name in node.input:
            users[name] = users.get(name, 0) + 1
    nodes: list[NodeProto] = []
    for node in packed.graph.node:
        tensor = initializers.get(node.input[1]) if len(node.input) > 1 else None
        replaced = None
        if tensor is not None and users[tensor.name] == 1:
            if node.op_type == "MatMul":
                replaced = _matmul(node, tensor, values[tensor.name], packed, bits)
            elif node.op_type == "Conv":
                replaced = _convolution(node, tensor, values[tensor.name], packed)
        if replaced is not None:
            packed.graph.initializer.remove(tensor)
        nodes += [node] if replaced is None else replaced
    del packed.graph.node[:]
    packed.graph.node.extend(nodes)
    if any(node.domain == _DOMAIN for node in nodes):
        entry = packed.opset_import.add()
        entry.domain, entry.version = _DOMAIN, 1
    return packed, plain


def _matmul(
    node: NodeProto, tensor: TensorProto, plain: TensorProto, file: ModelProto, bits: int
) -> list[NodeProto] | None:
    from onnx import helper, numpy_helper

    weight = numpy_helper.to_array(tensor)
    if weight.ndim != 2 or weight.size < _FEWEST_WEIGHTS:
        return None
    inputs, outputs = weight.shape
    # Padding repeats the last weight, which leaves the range of its block as it is.
    padded = np.pad(weight.T, ((0, 0), (0, -inputs % _BLOCK)), mode="edge")
    found = quantize_rows(padded.reshape(outputs, -1, _BLOCK), bits)
    _set(plain, np.ascontiguousarray(found.values().reshape(outputs, -1)[:, :inputs].T))
    names = [f"{tensor.name}_{part}" for part in ("codes", "scales", "zeros")]
    per_byte = 8 // bits
    shifts = bits * np.arange(per_byte, dtype=np.uint8)
    grouped = found.codes.reshape(outputs, -1, _BLOCK // per_byte, per_byte)
    blob = np.bitwise_or.reduce(grouped << shifts, axis=-1)
    for name, value in zip(names, (blob, found.scale, found.zero), strict=True):
        array = value if value.dtype == np.uint8 else value.reshape(outputs, -1)
        file.graph.initializer.append(numpy_helper.from_array(array, name))
    return [
        helper.make_node(
            "MatMulNBits",
            [node.input[0], *names],
            list(node.output),
            name=node.name,
            domain=_DOMAIN,
            K=inputs,
            N=outputs,
            bits=bits,
            block_size=_BLOCK,
            accuracy_level=1,
        )
    ]


def _convolution(
    node: NodeProto, tensor: TensorProto, plain: TensorProto, file: ModelProto
) -> list[NodeProto] | None:
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.to_array(tensor)
    outputs = weight.shape[0]
    if weight.size < _FEWEST_WEIGHTS or weight[0].size < _FEWEST_INPUTS:
        return None
    found = quantize_rows(weight.reshape(outputs, -1), _CONVOLUTION_BITS, whole_zero=True)
    _set(plain, found.values().reshape(weight.shape))
    names = [f"{tensor.name}_{part}" for part in ("codes", "scales", "zeros")]
    zeros = found.zero.ravel().astype(np.uint8)
    for name, codes in ((names[0], found.codes.reshape(weight.shape)), (names[2], zeros)):
        packed = helper.make_tensor(name, TensorProto.UINT4, codes.shape, codes.ravel())
        file.graph.initializer.append(packed)
    file.graph.initializer.append(numpy_helper.from_array(found.scale.ravel(), names[1]))
    output = f"{tensor.name}_values"
    expanded = helper.make_node("DequantizeLinear", names, [output], axis=0)
    node.input[1] = output
    return [expanded, node]


def _set(tensor: TensorProto, values: Array) -> None:
    from onnx import numpy_helper

    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
