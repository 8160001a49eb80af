"""Which layers of a network are quantized; everything else stays in full precision.

Quantized are the SS2D layers with all operands of their scans, the convolutions in front of the
channel attention, the convolutions that end a residual group, the MLPs and the downsampling between
stages; of MambaIRv2 the linear layers around the window attention, the layers and all operands of
the attentive scan (C with its prompt), and the feed-forward nets with their convolutions. In full
precision stay the first and the last layers of a network, norms, gates and channel attention, the
products of queries, keys and values, the router and the prompts, skip scales, biases, activation
functions and sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from qmamba.errors import ConfigError
from qmamba.nn import (
    SS2D,
    AttentiveBlock,
    AttentiveScan,
    ChannelAttention,
    ChannelAttentionBlock,
    ConvolutionalMlp,
    GatedMlp,
    Mlp,
    ResidualGroup,
    SelectiveScan,
    VSSBlock,
)
from qmamba.quantization.config import QuantConfig
from qmamba.quantization.layers import QuantizedConv2d, QuantizedLinear
from qmamba.quantization.ss2d import QuantizedSelectiveScan, QuantizedSS2D

# What the official placement gives the dynamic quantizer besides the operands of the scan.
_AFTER_A_SCAN = ".assm.out_proj"

Filter = Callable[[nn.Module, str], bool]
"""Whether a layer, given with its name, is quantized."""


def quantized_names(model: nn.Module) -> list[str]:
    """Names of the layers that would be quantized, an SS2D as one of them."""
    return list(dict.fromkeys(_places(model)))


def _places(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, SelectiveScan):
            yield name
        elif isinstance(module, Mlp):
            yield from (f"{prefix}fc1", f"{prefix}fc2")
        elif isinstance(module, ConvolutionalMlp):
            yield from (f"{prefix}fc1", f"{prefix}dwconv.depthwise_conv.0", f"{prefix}fc2")
        elif isinstance(module, GatedMlp):
            yield from (f"{prefix}fc1", f"{prefix}sg.conv", f"{prefix}fc2")
        elif isinstance(module, AttentiveBlock):
            yield from (f"{prefix}wqkv", f"{prefix}win_mhsa.proj")
        elif isinstance(module, AttentiveScan):
            yield from (f"{prefix}in_proj.0", f"{prefix}CPE.0", f"{prefix}out_proj")
        elif isinstance(module, ChannelAttentionBlock):
            for key, layer in module.cab.named_children():
                if isinstance(layer, nn.Conv2d) and not isinstance(layer, ChannelAttention):
                    yield f"{prefix}cab.{key}"
        elif isinstance(module, ResidualGroup):
            for key, layer in module.conv.named_modules():
                if isinstance(layer, nn.Conv2d):
                    yield f"{prefix}conv.{key}".rstrip(".")
        elif _is_stage(module):
            for key, layer in module.downsample.named_children():
                if isinstance(layer, nn.Conv2d):
                    yield f"{prefix}downsample.{key}"


def _is_stage(module: nn.Module) -> bool:
    blocks = getattr(module, "blocks", None)
    return (
        isinstance(getattr(module, "downsample", None), nn.Module)
        and isinstance(blocks, nn.Sequential)
        and any(isinstance(block, VSSBlock) for block in blocks)
    )


def replace_layers(model: nn.Module, config: QuantConfig, filter_fn: Filter | None) -> int:
    """Put quantized layers in the place of all that belong there; how many there were.

    Raises:
        ConfigError: the model has been prepared before, or none of its layers is to be quantized.
    """
    modules = dict(model.named_modules())
    kinds = (QuantizedSelectiveScan, QuantizedLinear, QuantizedConv2d)
    if any(isinstance(module, kinds) for module in modules.values()):
        raise ConfigError("The model is quantized already; start from the full-precision one.")

    def selected(name: str) -> bool:
        # The projections of an SS2D are not modules of their own.
        module = modules.get(name) or modules[name.rpartition(".")[0]]
        return filter_fn is None or filter_fn(module, name)

    names = [name for name in quantized_names(model) if selected(name)]
    if not names:
        raise ConfigError("The model has no layer that would be quantized.")
    for name in names:
        parent, _, key = name.rpartition(".")
        setattr(modules[parent], key, _quantized(modules[name], config, name, selected))
    return len(names)


def _quantized(
    module: nn.Module, config: QuantConfig, name: str, selected: Callable[[str], bool]
) -> nn.Module:
    if isinstance(module, SS2D):
        return QuantizedSS2D(module, config, name, selected)
    if isinstance(module, SelectiveScan):
        return QuantizedSelectiveScan(module, config, name, selected)
    dynamic = name.endswith(_AFTER_A_SCAN)
    quantizers = config.weight_quantizer(name), config.activation_quantizer(name, dynamic=dynamic)
    if isinstance(module, nn.Conv2d):
        return QuantizedConv2d(module, *quantizers)
    assert isinstance(module, nn.Linear)
    return QuantizedLinear(module, *quantizers)
