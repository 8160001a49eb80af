"""What restoration undoes: shrinking, noise and JPEG, as published results or files have them."""

from qmamba.restore.degradations.compression import check_quality, jpeg
from qmamba.restore.degradations.degradation import Degradation, TaskName
from qmamba.restore.degradations.luma import full_luma, video_luma
from qmamba.restore.degradations.noise import add_benchmark_noise, check_sigma
from qmamba.restore.degradations.noise_level import NoiseLevel
from qmamba.restore.degradations.resize import (
    crop_to_multiple,
    enlarge,
    resize_bicubic,
    shrink,
)

__all__ = [
    "Degradation",
    "NoiseLevel",
    "TaskName",
    "add_benchmark_noise",
    "check_quality",
    "check_sigma",
    "crop_to_multiple",
    "enlarge",
    "full_luma",
    "jpeg",
    "resize_bicubic",
    "shrink",
    "video_luma",
]
