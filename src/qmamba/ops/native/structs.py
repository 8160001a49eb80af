"""The structs of the C interface, mirrored field by field; the library is asked for their layout.

A library that was built from other sources would read and write at wrong addresses, so
:func:`first_difference` compares every size and offset when it is loaded. What the fields mean is
told once, beside their definition in ``native/*/*.h``.
"""

from __future__ import annotations

import ctypes
from typing import ClassVar

_Fields = list[tuple[str, type]]


def _pointers(*names: str) -> _Fields:
    return [(name, ctypes.c_void_p) for name in names]


def _sizes(*names: str) -> _Fields:
    return [(name, ctypes.c_int64) for name in names]


def _floats(*names: str) -> _Fields:
    return [(name, ctypes.c_float) for name in names]


def _flags(*names: str) -> _Fields:
    return [(name, ctypes.c_int32) for name in names]


class Struct(ctypes.Structure):
    """A struct of the C interface."""

    c_name: ClassVar[str]


class ScanStruct(Struct):
    """``native/scan/scan.h``: one pass of the selective scan."""

    c_name = "qmamba_scan"
    _fields_ = [
        *_pointers("x", "projected", "delta", "order", "dt_weight", "dt_bias", "decay", "skip"),
        *_pointers("norm_weight", "norm_bias", "grad_y"),
        *_pointers("y", "states_saved", "grad_x", "grad_delta", "grad_projected"),
        *_pointers("grad_dt_weight", "grad_dt_bias", "grad_decay", "grad_skip", "workspace"),
        *_sizes("batch", "pixels", "steps", "channels", "padded", "routes", "rank", "states"),
        *_floats("norm_epsilon"),
        *_flags("dtype", "shared", "merged", "softplus", "own_orders"),
    ]


class CodeOutputStruct(Struct):
    """``native/common/interface.h``: codes that a layer writes for its reader."""

    c_name = "qmamba_code_output"
    _fields_ = [
        *_pointers("codes"),
        *_sizes("columns"),
        *_floats("scale", "offset", "first", "last"),
    ]


class QParamsStruct(Struct):
    """``native/quantized/quantized.h``: uniform quantization parameters and bounds."""

    c_name = "qmamba_qparams"
    _fields_ = _floats("scale", "offset", "lowest", "highest")


class ConstantStruct(Struct):
    """``native/quantized/quantized.h``: a constant as codes."""

    c_name = "qmamba_constant"
    _fields_ = [*_pointers("codes"), ("qparams", QParamsStruct)]


class QParamsRuleStruct(Struct):
    """``native/quantized/quantized.h``: where quantization parameters come from."""

    c_name = "qmamba_qparams_rule"
    _fields_ = [
        *_pointers("qparams", "weights"),
        *_sizes("bits", "first", "last", "copies"),
    ]


class OperandStruct(Struct):
    """``native/quantized/quantized.h``: quantization of one operand."""

    c_name = "qmamba_operand"
    _fields_ = [
        *_pointers("x", "values", "codes", "code_scale", "code_offset", "partial"),
        ("rule", QParamsRuleStruct),
        *_sizes("images", "rows", "count", "row_stride", "image_stride"),
    ]


class ScanOperandsStruct(Struct):
    """``native/quantized/quantized.h``: fake quantization of the operands of a scan."""

    c_name = "qmamba_scan_operands"
    _fields_ = [
        *_pointers("x", "projected", "partial", "weights"),
        ("dt_weight", ConstantStruct),
        ("low", QParamsRuleStruct),
        ("operands", QParamsRuleStruct * 4),
        *_sizes("batch", "pixels", "routes", "channels", "padded", "rank", "states"),
    ]


class QuantizedScanStruct(Struct):
    """``native/quantized/quantized.h``: the scan of quantized operands."""

    c_name = "qmamba_quantized_scan"
    _fields_ = [
        ("scan", ScanStruct),
        *((name, ConstantStruct) for name in ("dt_weight", "dt_bias", "decay", "skip")),
        *((name, QParamsRuleStruct) for name in ("delta", "output")),
        *_pointers("partial", "gate", "tables"),
        *_sizes("looked_up", "gate_stride"),
    ]


class DepthwiseStruct(Struct):
    """``native/quantized/quantized.h``: a depthwise convolution of quantized inputs."""

    c_name = "qmamba_depthwise"
    _fields_ = [
        *_pointers("x", "x_codes", "qparams", "bias", "weights"),
        ("weight", ConstantStruct),
        *_pointers("y"),
        ("output", CodeOutputStruct),
        *_sizes("batch", "height", "width", "channels", "padded", "stride"),
        *_sizes("side", "dilation", "first", "last"),
        *_flags("activation"),
    ]


class IntegerLayerStruct(Struct):
    """``native/integer/integer.h``: a weight of 8-bit codes."""

    c_name = "qmamba_integer_layer"
    _fields_ = [
        *_pointers("codes", "scale", "offset", "sums", "bias"),
        *_sizes("inputs", "outputs"),
    ]


class IntegerCallStruct(Struct):
    """``native/integer/integer.h``: rows through one or two layers on integers."""

    c_name = "qmamba_integer_call"
    _fields_ = [
        *_pointers("x", "x_scale", "x_offset", "norm_weight", "norm_bias"),
        *_pointers("residual", "residual_scale", "y"),
        ("output", CodeOutputStruct),
        *_pointers("workspace"),
        ("first", IntegerLayerStruct),
        ("second", IntegerLayerStruct),
        *_sizes("rows", "side", "stride", "height", "width"),
        *_floats("norm_epsilon"),
        *_flags("x_dtype", "residual_dtype", "y_dtype", "per_tensor", "highest", "gelu"),
        *_flags("products"),
    ]


class RoundingStruct(Struct):
    """``native/rounding/rounding.h``: fake quantization of rows in training."""

    c_name = "qmamba_rounding"
    _fields_ = [
        *_pointers("x", "grad", "result", "scale", "offset", "lowest", "highest"),
        *_pointers("slope", "shift", "at_lowest", "at_highest", "sums", "partial"),
        *_sizes("rows", "count"),
        *_floats("low", "high"),
    ]


class DynamicStruct(Struct):
    """``native/rounding/rounding.h``: DLS."""

    c_name = "qmamba_dynamic"
    _fields_ = [
        *_pointers("x", "grad", "result", "step_weights", "offset_weights"),
        *_pointers("state", "weight_grads", "partial"),
        *_sizes("rows", "count", "copies"),
        *_floats("low", "high", "narrowest", "tiny", "gradient_scale"),
    ]


class ThresholdsStruct(Struct):
    """``native/rounding/rounding.h``: RFA."""

    c_name = "qmamba_thresholds"
    _fields_ = [
        *_pointers("x", "grad", "result", "points", "sums"),
        *_sizes("count", "levels"),
        *_floats("step", "offset", "low", "high", "first_level", "end_slope"),
    ]


class AttendedSumStruct(Struct):
    """``native/maps/maps.h``: two maps into one, with channel attention."""

    c_name = "qmamba_attended_sum"
    _fields_ = [
        *_pointers("x", "x_weight", "z", "squeeze", "squeeze_bias", "excite", "excite_bias"),
        *_pointers("partial", "z_weight", "y"),
        *_sizes("batch", "pixels", "channels", "hidden"),
    ]


class LayerNormStruct(Struct):
    """``native/maps/maps.h``: the layer norm of rows."""

    c_name = "qmamba_layer_norm"
    _fields_ = [
        *_pointers("x", "weight", "bias", "y"),
        *_sizes("rows", "channels"),
        *_floats("epsilon"),
        *_flags("dtype"),
    ]


class LinearStruct(Struct):
    """``native/layers/layers.h``: a linear layer."""

    c_name = "qmamba_linear"
    _fields_ = [
        *_pointers("x", "weight", "bias", "y"),
        *_sizes("rows", "inputs", "outputs"),
    ]


class LinearBackwardStruct(Struct):
    """``native/layers/layers.h``: gradients of a linear layer."""

    c_name = "qmamba_linear_backward"
    _fields_ = [
        *_pointers("x", "weight", "grad", "grad_x", "grad_weight", "grad_bias"),
        *_sizes("rows", "inputs", "outputs"),
    ]


class ChannelWindowStruct(Struct):
    """``native/layers/layers.h``: a depthwise convolution."""

    c_name = "qmamba_channel_window"
    _fields_ = [
        *_pointers("x", "weight", "bias", "y"),
        *_sizes("batch", "height", "width", "channels", "padded", "stride"),
        *_sizes("dilation"),
        *_flags("activation", "dtype"),
    ]


class ChannelWindowBackwardStruct(Struct):
    """``native/layers/layers.h``: gradients of a depthwise convolution."""

    c_name = "qmamba_channel_window_backward"
    _fields_ = [
        *_pointers("x", "weight", "bias", "grad", "inner", "partial", "grad_x"),
        *_pointers("grad_weight", "grad_bias"),
        *_sizes("batch", "height", "width", "channels", "padded", "stride"),
        *_sizes("dilation"),
        *_flags("activation", "dtype"),
    ]


class GatedNormStruct(Struct):
    """``native/layers/layers.h``: a layer norm with a gate."""

    c_name = "qmamba_gated_norm"
    _fields_ = [
        *_pointers("x", "weight", "bias", "gate", "y", "mean", "scale"),
        *_sizes("rows", "channels", "gate_stride"),
        *_floats("epsilon"),
        *_flags("dtype"),
    ]


class GatedNormBackwardStruct(Struct):
    """``native/layers/layers.h``: gradients of a layer norm with a gate."""

    c_name = "qmamba_gated_norm_backward"
    _fields_ = [
        *_pointers("x", "weight", "bias", "gate", "mean", "scale", "grad", "grad_x"),
        *_pointers("grad_gate", "partial", "grad_weight", "grad_bias"),
        *_sizes("rows", "channels", "gate_stride"),
        *_flags("dtype"),
    ]


def all_structs() -> list[type[Struct]]:
    """Every struct of this module."""
    return [struct for struct in Struct.__subclasses__() if struct.__module__ == __name__]


def first_difference(library: ctypes.CDLL) -> str | None:
    """Where a library lays out a struct in another way than this module, or ``None``."""
    if not hasattr(library, "qmamba_layout"):
        return "it does not tell its layout"
    ask = library.qmamba_layout
    ask.argtypes, ask.restype = [ctypes.c_char_p, ctypes.c_char_p], ctypes.c_int64
    for struct in all_structs():
        name = struct.c_name.encode()
        if ask(name, b"") != ctypes.sizeof(struct):
            return f"the size of {struct.c_name}"
        for field, *_ in struct._fields_:
            if ask(name, field.encode()) != getattr(struct, field).offset:
                return f"{struct.c_name}.{field}"
    return None
