"""Synthetic distortions for pre-training a quality model.

The 25 kinds of KADID-10k (Lin, Hosu and Saupe, "KADID-10k: A Large-scale Artificially Distorted IQA
Database", QoMEX 2019) in seven families, and an eighth family of what cameras and sharing do.
"""

from qmamba.datasets.distortions.arrays import Pixels
from qmamba.datasets.distortions.catalog import (
    DISTORTIONS,
    FAMILIES,
    UNAVAILABLE,
    Distortion,
    distort,
    random_distortion_chain,
)

__all__ = [
    "DISTORTIONS",
    "FAMILIES",
    "UNAVAILABLE",
    "Distortion",
    "Pixels",
    "distort",
    "random_distortion_chain",
]
