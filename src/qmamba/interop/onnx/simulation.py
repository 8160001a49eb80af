"""Quantized networks as they are traced: codes as real values, in standard operators.

A file of one simulates the quantized computation: activations are rounded to the levels of their
codes and computed on in float32. Weights lie in the file as codes. What our packed networks gain by
computing on codes, a simulation does not.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.errors import ConfigError
from qmamba.interop.onnx.functions import DOMAIN, VERSION
from qmamba.interop.onnx.rounding import DYNAMIC, FIXED
from qmamba.models import Network
from qmamba.quantization import QuantConfig, quantize_
from qmamba.quantization.layers import FrozenTensor
from qmamba.quantization.quantizers import DLS, RFA, Quantizer
from qmamba.quantization.quantizers.learned_step import LearnedStep
from qmamba.quantization.ss2d import QuantizedSelectiveScan

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

SIMULATION = (
    "simulates W{}A{}: values are rounded to the levels of their codes and computed on in float32"
)
"""What a file says of itself; bits of weights and of activations."""

_CODES = "Codes"
_FOUR_BITS_SINCE = 21


class GraphQuantizer(nn.Module):
    """Fake quantization of an activation in operations that can be traced.

    Args:
        quantizer: of an activation, initialized.

    Raises:
        ConfigError: the quantizer has learned thresholds between its levels.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        if isinstance(quantizer, RFA) or not isinstance(quantizer, DLS | LearnedStep):
            raise ConfigError(
                f"Activations quantized by {type(quantizer).__name__} cannot be exported; those of "
                "the methods of docs/quantization.md can."
            )
        if not quantizer.ready:
            raise ConfigError("A quantizer has seen no data yet; train or calibrate the network.")
        qparams = quantizer.choose_qparams(torch.zeros(1, 1, dtype=torch.float32, device="cpu"))
        self.attributes: dict[str, Any] = {
            "low": float(qparams.low),
            "high": float(qparams.high),
        }
        self.bounds: tuple[float, float] | None = None
        if isinstance(quantizer, DLS) and quantizer.statistics != "frozen":
            self.function = DYNAMIC
            operands = quantizer.step_weights[:, None], quantizer.offset_weights[:, None]
            self.attributes |= _dynamic_attributes(quantizer)
        else:
            self.function = FIXED
            operands = qparams.scale.reshape(1), qparams.offset.reshape(1)
            if qparams.clamp is not None:
                self.bounds = float(qparams.clamp[0]), float(qparams.clamp[1])
        for name, operand in zip(("first", "second"), operands, strict=True):
            self.register_buffer(name, operand.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        """The value of the level of each element."""
        levels: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{self.function}",
            (x, cast(Tensor, self.first), cast(Tensor, self.second)),
            self.attributes,
            dtype=x.dtype,
            shape=list(x.shape),
            version=VERSION,
        )
        return levels if self.bounds is None else levels.clamp(*self.bounds)


def _dynamic_attributes(quantizer: DLS) -> dict[str, Any]:
    is_split = quantizer.statistics == "sample" and quantizer.operand.batched
    return {
        "axis": int(is_split),
        "copies": float(quantizer.operand.copies),
        "levels": float(2**quantizer.bits),
        "narrowest": quantizer.narrowest,
        "least": quantizer.least,
        "least_widest": quantizer.least_widest,
    }


class GraphWeight(nn.Module):
    """A constant as one node of its codes, which :func:`with_codes` expands."""

    def __init__(self, frozen: FrozenTensor) -> None:
        super().__init__()
        self.bits = frozen.bits
        self.register_buffer("codes", frozen.codes)
        for name in ("scale", "offset"):
            self.register_buffer(name, getattr(frozen, name).detach().float().reshape(()))
        bounds = [cast("Tensor | None", bound) for bound in (frozen.lowest, frozen.highest)]
        self.bounds = [float(bound) for bound in bounds if bound is not None]

    def forward(self) -> Tensor:
        """The constant in float32."""
        codes = cast(Tensor, self.codes)
        attributes: dict[str, Any] = {"bits": self.bits}
        if self.bounds:
            attributes["bounds"] = self.bounds
        values: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{_CODES}",
            (codes, cast(Tensor, self.scale), cast(Tensor, self.offset)),
            attributes,
            dtype=torch.float32,
            shape=list(codes.shape),
            version=VERSION,
        )
        return values


class GraphOperands(nn.Module):
    """What a quantized scan computes from its map: operands of the node of the scan.

    Args:
        layer: the converted layer, whose quantizers and codes are traceable already.
    """

    def __init__(self, layer: QuantizedSelectiveScan) -> None:
        super().__init__()
        self.routes, self.states = layer.routes, layer.state_size
        names = ("x_proj_input", "x", "dt_proj_input", "steps", "B", "C")
        self.rounding = nn.ModuleDict(
            {name: getattr(layer, f"{name}_quantizer") or nn.Identity() for name in names}
        )
        self.given_delta = layer.steps_quantizer is not None
        frozen = getattr(layer, "frozen_x_proj_weight", None)
        self.projection = GraphWeight(frozen) if isinstance(frozen, FrozenTensor) else None
        weight = layer.constant("dt_projs_weight").detach()
        constants = {
            "exact_projection": layer.constant("x_proj_weight").detach().flatten(0, 1),
            "dt_weight": weight,
            # One product for all routes: what stands beside the blocks of the routes is zero.
            "dt_blocks": torch.block_diag(*weight),
            "dt_bias": layer.constant("dt_projs_bias"),
            "A": layer.constant("A_logs").unflatten(0, (self.routes, -1)),
            "D": layer.constant("Ds").unflatten(0, (self.routes, -1)),
        }
        for name, value in constants.items():
            self.register_buffer(name, value.detach().clone())

    def forward(self, x: Tensor) -> list[Tensor]:
        """Of ``(batch, height, width, channels)``: in the order of the node, constants included."""
        rounding = self.rounding
        if self.projection is None:
            weight = cast(Tensor, self.exact_projection)
        else:
            weight = self.projection().flatten(0, 1)
        projected = F.linear(rounding["x_proj_input"](x), weight).unflatten(-1, (self.routes, -1))
        rank = projected.shape[-1] - 2 * self.states
        low, B, C = projected.split([rank, self.states, self.states], dim=-1)
        low, B, C = rounding["dt_proj_input"](low), rounding["B"](B), rounding["C"](C)
        constants = [cast(Tensor, getattr(self, name)) for name in ("dt_bias", "A", "D")]
        if not self.given_delta:
            projected = torch.cat([low, B, C], dim=-1).flatten(3)
            return [rounding["x"](x), projected, cast(Tensor, self.dt_weight), *constants]
        delta = F.linear(low.flatten(3), cast(Tensor, self.dt_blocks))
        B_and_C = torch.cat([B, C], dim=-1).flatten(3)
        return [rounding["x"](x), rounding["steps"](delta), B_and_C, *constants]


def converted(model: Network) -> Network:
    """A quantized network with its weights as codes: itself, or a copy on the CPU."""
    if any(isinstance(module, FrozenTensor) for module in model.modules()):
        return model
    return quantize_(copy.deepcopy(model).cpu(), QuantConfig(step="convert"))


def without_rounding(model: Network) -> Network:
    """A copy on the CPU, in float32, of a converted network whose activations stay as they are."""
    network = copy.deepcopy(model).cpu().float()
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, Quantizer):
                setattr(parent, name, None)
    return network


def trace_quantizers(network: nn.Module) -> None:
    """Put traceable forms in the place of quantizers and of frozen weights of layers."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Quantizer):
                setattr(parent, name, GraphQuantizer(child))
            elif isinstance(child, FrozenTensor) and name == "frozen_weight":
                setattr(parent, name, GraphWeight(child))


def with_codes(file: ModelProto, opset: int) -> None:
    """Write the codes of weights as ``DequantizeLinear`` and ``Sub``, in place.

    Tensors of 4 bits are standard since opset 21; codes of fewer bits are stored in 4, and in
    older files all in 8.
    """
    initializers = {tensor.name: tensor for tensor in file.graph.initializer}
    nodes: list[NodeProto] = []
    for node in file.graph.node:
        if node.domain == DOMAIN and node.op_type == _CODES:
            nodes += _expanded(node, initializers, opset)
        else:
            nodes.append(node)
    del file.graph.node[:]
    file.graph.node.extend(nodes)
    # Their types were noted while tracing and are others now.
    known = [info for info in file.graph.value_info if info.name not in initializers]
    del file.graph.value_info[:]
    file.graph.value_info.extend(known)


def _expanded(node: NodeProto, initializers: dict[str, TensorProto], opset: int) -> list[NodeProto]:
    from onnx import TensorProto, helper, numpy_helper

    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    codes = initializers[node.input[0]]
    values = numpy_helper.to_array(codes)
    if attributes["bits"] <= 4 and opset >= _FOUR_BITS_SINCE:
        kind = TensorProto.UINT4 if values.dtype == np.uint8 else TensorProto.INT4
        codes.CopyFrom(helper.make_tensor(codes.name, kind, values.shape, values.ravel()))
    (name,), (codes_name, scale, offset) = node.output, node.input
    chain: list[tuple[str, list[str]]] = [("DequantizeLinear", [codes_name, scale])]
    if numpy_helper.to_array(initializers[offset]) != 0:
        chain.append(("Sub", ["", offset]))
    constants = []
    if "bounds" in attributes:
        bounds = [f"{name}_lowest", f"{name}_highest"]
        chain.append(("Clip", ["", *bounds]))
        constants = [
            helper.make_node("Constant", [], [bound], value_float=value)
            for bound, value in zip(bounds, attributes["bounds"], strict=True)
        ]
    nodes = constants
    before = ""
    for index, (kind_of, inputs) in enumerate(chain):
        output = name if index == len(chain) - 1 else f"{name}_{kind_of}"
        nodes.append(helper.make_node(kind_of, [inputs[0] or before, *inputs[1:]], [output]))
        before = output
    return nodes
