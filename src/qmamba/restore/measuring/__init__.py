"""What is measured in an image before a network restores it: its noise, its JPEG blocks."""

from qmamba.restore.measuring.blocks import block_strength
from qmamba.restore.measuring.measured import Measured, Measuring, takes_noise_map
from qmamba.restore.measuring.noise import estimate_noise

__all__ = ["Measured", "Measuring", "block_strength", "estimate_noise", "takes_noise_map"]
