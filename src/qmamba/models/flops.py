"""Multiply-adds and parameters of a network, from its configuration alone.

The convention is that of the papers of this family (fvcore with VMamba's extra rules): one
multiply-add is one operation; a layer norm costs 5 per element and pooling 1; activations, sums,
products, biases and the means of the route gate cost nothing; the scan costs
``9 * pixels * channels * states + pixels * channels`` per route. Routes through local windows run
over the padded map, and so do the projections that feed them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from qmamba.errors import ShapeError
from qmamba.models.fields import NetworkConfig
from qmamba.models.mambair.config import MambaIRConfig
from qmamba.models.mambair.network import TAIL_DIM
from qmamba.models.qmamba.config import QMambaConfig
from qmamba.models.registry import Config, Model, build_model
from qmamba.models.timm.config import TimmConfig
from qmamba.models.timm.flops import backbone_flops

_ROUTES = 4
_NORM = 5
_GATE_REDUCTION = 8


@dataclass(frozen=True)
class FlopReport:
    """Multiply-adds for one image, by kind of operation."""

    height: int
    width: int
    convolution: int
    """All convolutions: stem, downsampling, depthwise, groups, enlargement."""
    linear: int
    """All linear layers, the scan's projections and the head."""
    normalization: int
    """Layer norms and the final pooling."""
    gate: int
    """The route gates of LQMamba: their norms on all routes and their linear layers; the channel
    attention of MambaIR: its pooling and its two layers."""
    scan: int
    """The selective scans themselves."""
    scan_in_paper: bool
    """Whether the figures of the paper contain the scan: they do not for LQMamba alone."""
    attention: int = 0
    """The products of queries, keys and values in ViT and Swin Transformer."""

    @property
    def total(self) -> int:
        """Everything, the scan included."""
        return self.without_scan + self.scan

    @property
    def without_scan(self) -> int:
        """Everything but the scans."""
        return self.convolution + self.linear + self.normalization + self.gate + self.attention

    @property
    def paper(self) -> int:
        """What the paper's tables show for this kind of network (for MambaIR within 0.5 %)."""
        return self.total if self.scan_in_paper else self.without_scan


def count_flops(model: Model | Config, height: int = 224, width: int = 224) -> FlopReport:
    """Count the multiply-adds of one image of ``height`` x ``width`` pixels.

    The papers of super-resolution count for an output of 720 x 1280; the size here is the input's.

    Raises:
        ShapeError: a side is smaller than 1, or the network is bound to another size.

    Source: tables of the QMamba and MambaIR papers; the rules are fvcore's and VMamba's.
    """
    if height < 1 or width < 1:
        raise ShapeError(f"An image needs sides of at least 1, got {height} x {width}.")
    config = model if isinstance(model, NetworkConfig) else model.config
    if isinstance(config, TimmConfig):
        return _backbone_report(config, height, width)
    if isinstance(config, MambaIRConfig):
        return _mambair_flops(config, height, width)
    return _qmamba_flops(config, height, width)


def _backbone_report(config: TimmConfig, height: int, width: int) -> FlopReport:
    side = config.image_size
    if side is not None and (height, width) != (side, side):
        raise ShapeError(
            f"A {config.backbone} takes images of {side} x {side}, not {height} x {width}."
        )
    convolution, linear, normalization, attention = backbone_flops(config, height, width)
    return FlopReport(
        height, width, convolution, linear, normalization, 0, 0, True, attention=attention
    )


def _qmamba_flops(config: QMambaConfig, height: int, width: int) -> FlopReport:
    rows, columns = _half(height), _half(width)
    half = config.dims[0] // 2
    convolution = 9 * 3 * half * rows * columns
    normalization = _NORM * half * rows * columns
    linear = gate = scan = 0
    previous = half
    for i, dim in enumerate(config.dims):
        rows, columns = _half(rows), _half(columns)
        pixels = rows * columns
        convolution += 9 * previous * dim * pixels
        normalization += _NORM * dim * pixels
        previous = dim
        inner, rank, states = config.inner_dims[i], config.dt_ranks[i], config.state_size
        steps = _round_up(rows, config.windows[i]) * _round_up(columns, config.windows[i])
        depth = config.depths[i]
        convolution += depth * 9 * inner * pixels
        normalization += depth * _NORM * (2 * dim + inner) * pixels
        pointwise = 2 * dim * inner + 2 * dim * int(config.mlp_ratio * dim)
        # Per route: to the step, B and C of a pixel, then from the step's low rank to all channels.
        projections = _ROUTES * inner * (rank + 2 * states + rank)
        linear += depth * (pointwise * pixels + projections * steps)
        scan += depth * _ROUTES * inner * steps * (9 * states + 1)
        if config.route_gate:
            hidden = inner // _GATE_REDUCTION
            gate += depth * _ROUTES * (_NORM * inner * pixels + 2 * inner * hidden)
    normalization += (_NORM + 1) * previous * rows * columns
    linear += previous * config.num_outputs
    return FlopReport(
        height=height,
        width=width,
        convolution=convolution,
        linear=linear,
        normalization=normalization,
        gate=gate,
        scan=scan,
        scan_in_paper=not config.route_gate and max(config.windows) == 1,
    )


def _mambair_flops(config: MambaIRConfig, height: int, width: int) -> FlopReport:
    dim, inner, rank, states = config.dim, config.inner_dim, config.dt_rank, config.state_size
    pixels, depth = height * width, sum(config.depths)
    hidden = dim // config.cab_reduction
    local = {
        "convolution": 2 * 9 * dim * hidden,
        "separable": 2 * dim * hidden + 9 * (hidden + dim),
        "depthwise": 9 * dim,
    }[config.cab]
    quarter = dim // 4
    bottleneck = 2 * 9 * dim * quarter + quarter**2
    group_end = 9 * dim**2 if config.group_convolution == "1conv" else bottleneck
    # Every group ends in such a convolution, and so does the body.
    convolution = 9 * config.channels * dim + (len(config.depths) + 1) * group_end
    convolution += depth * (9 * inner + local) + _reconstruction(config)
    projections = _ROUTES * inner * (rank + 2 * states + rank)
    attention = 2 * dim * (dim // config.attention_reduction)
    return FlopReport(
        height=height,
        width=width,
        convolution=convolution * pixels,
        linear=depth * (3 * dim * inner + projections) * pixels,
        normalization=_NORM * (depth * (2 * dim + inner) + 2 * dim) * pixels,
        gate=depth * (dim * pixels + attention),
        scan=depth * _ROUTES * inner * (9 * states + 1) * pixels,
        scan_in_paper=True,
    )


def _reconstruction(config: MambaIRConfig) -> int:
    """Multiply-adds for one pixel of the input in the layers after the body of a MambaIR."""
    scale, channels = config.scale, config.channels
    if config.task == "sr-light":
        return 9 * config.dim * channels * scale**2
    if config.task not in ("sr-classic", "sr-real"):
        return 9 * config.dim * channels
    square = 9 * TAIL_DIM**2
    if config.task == "sr-real":
        # At twice the side, at four times, and once more there.
        enlarging = (2**2 + 2 * 4**2) * square
    elif scale == 3:
        enlarging = 9 * square
    else:
        enlarging = sum(4 * (2**i) ** 2 * square for i in range(scale.bit_length() - 1))
    return 9 * config.dim * TAIL_DIM + enlarging + 9 * TAIL_DIM * channels * scale**2


def count_parameters(model: Model | Config) -> int:
    """Number of trainable and frozen parameters; a config is built without memory."""
    if isinstance(model, TimmConfig):
        return model.parameters
    if isinstance(model, NetworkConfig):
        with torch.device("meta"):
            model = build_model(model)
    return sum(parameter.numel() for parameter in model.parameters())


def _half(side: int) -> int:
    return math.ceil(side / 2)


def _round_up(side: int, window: int) -> int:
    return -(-side // window) * window
