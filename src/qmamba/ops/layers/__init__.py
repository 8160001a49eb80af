"""Layers around the scan: PyTorch's, and fused kernels for training on the CPU.

Where no gradient is recorded every layer is PyTorch's. Networks that are prepared for inference
have layers of their own (:mod:`qmamba.inference`).
"""

from qmamba.ops.layers.choice import trains_natively
from qmamba.ops.layers.depthwise import depthwise_convolution
from qmamba.ops.layers.linear import linear
from qmamba.ops.layers.norm import gated_norm, layer_norm

__all__ = ["depthwise_convolution", "gated_norm", "layer_norm", "linear", "trains_natively"]
