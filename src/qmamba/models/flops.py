"""Multiply-adds and parameters of a network, from its configuration alone.

The convention is that of the papers of this family (fvcore with VMamba's extra rules): one
multiply-add is one operation; a layer norm costs 5 per element and the final pooling 1;
activations, residual sums, biases and the means of the route gate cost nothing; the scan costs
``9 * pixels * channels * states + pixels * channels`` per route. Routes through local windows run
over the padded map, and so do the projections that feed them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from qmamba.errors import ShapeError
from qmamba.models.config import QMambaConfig
from qmamba.models.qmamba import QMamba

_ROUTES = 4
_NORM = 5
_GATE_REDUCTION = 8


@dataclass(frozen=True)
class FlopReport:
    """Multiply-adds for one image, by kind of operation."""

    height: int
    width: int
    convolution: int
    """Stem, downsampling and depthwise convolutions."""
    linear: int
    """All linear layers, the scan's projections and the head."""
    normalisation: int
    """Layer norms and the final pooling."""
    gate: int
    """The route gates of LQMamba: their norms on all routes and their linear layers."""
    scan: int
    """The selective scans themselves."""
    scan_in_paper: bool
    """Whether the figures of the paper contain the scan: they do for QMamba, not for LQMamba."""

    @property
    def total(self) -> int:
        """Everything, the scan included."""
        return self.without_scan + self.scan

    @property
    def without_scan(self) -> int:
        """Everything but the scans."""
        return self.convolution + self.linear + self.normalisation + self.gate

    @property
    def paper(self) -> int:
        """What the paper's tables show for this kind of network."""
        return self.total if self.scan_in_paper else self.without_scan


def count_flops(model: QMamba | QMambaConfig, height: int = 224, width: int = 224) -> FlopReport:
    """Count the multiply-adds of one image of ``height`` x ``width`` pixels.

    Raises:
        ShapeError: a side is smaller than 1.

    Source: tables of the QMamba paper; the rules are fvcore's and VMamba's.
    """
    if height < 1 or width < 1:
        raise ShapeError(f"An image needs sides of at least 1, got {height} x {width}.")
    config = model.config if isinstance(model, QMamba) else model
    rows, columns = _half(height), _half(width)
    half = config.dims[0] // 2
    convolution = 9 * 3 * half * rows * columns
    normalisation = _NORM * half * rows * columns
    linear = gate = scan = 0
    previous = half
    for i, dim in enumerate(config.dims):
        rows, columns = _half(rows), _half(columns)
        pixels = rows * columns
        convolution += 9 * previous * dim * pixels
        normalisation += _NORM * dim * pixels
        previous = dim
        inner, rank, states = config.inner_dims[i], config.dt_ranks[i], config.state_size
        steps = _round_up(rows, config.windows[i]) * _round_up(columns, config.windows[i])
        depth = config.depths[i]
        convolution += depth * 9 * inner * pixels
        normalisation += depth * _NORM * (2 * dim + inner) * pixels
        pointwise = 2 * dim * inner + 2 * dim * int(config.mlp_ratio * dim)
        # Per route: to the step, B and C of a pixel, then from the step's low rank to all channels.
        projections = _ROUTES * inner * (rank + 2 * states + rank)
        linear += depth * (pointwise * pixels + projections * steps)
        scan += depth * _ROUTES * inner * steps * (9 * states + 1)
        if config.route_gate:
            hidden = inner // _GATE_REDUCTION
            gate += depth * _ROUTES * (_NORM * inner * pixels + 2 * inner * hidden)
    normalisation += (_NORM + 1) * previous * rows * columns
    linear += previous * config.num_outputs
    return FlopReport(
        height=height,
        width=width,
        convolution=convolution,
        linear=linear,
        normalisation=normalisation,
        gate=gate,
        scan=scan,
        scan_in_paper=not config.route_gate and max(config.windows) == 1,
    )


def count_parameters(model: QMamba | QMambaConfig) -> int:
    """Number of trainable and frozen parameters; a config is built without memory."""
    if isinstance(model, QMambaConfig):
        with torch.device("meta"):
            model = QMamba(model)
    return sum(parameter.numel() for parameter in model.parameters())


def _half(side: int) -> int:
    return math.ceil(side / 2)


def _round_up(side: int, window: int) -> int:
    return -(-side // window) * window
