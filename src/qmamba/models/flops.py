"""The rules by which multiply-adds are counted, and a report of them.

The convention is that of the papers of this family (fvcore with VMamba's extra rules): one
multiply-add is one operation; a layer norm costs 5 per element and pooling 1; activations, sums,
products, biases and the means of the route gate cost nothing; the scan costs
``9 * pixels * channels * states + pixels * channels`` per route. Routes through local windows run
over the padded map, and so do the projections that feed them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ROUTES = 4
"""Scan routes of a map."""
NORM = 5
"""Operations of a layer norm for each element."""


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


def half(side: int) -> int:
    return math.ceil(side / 2)
