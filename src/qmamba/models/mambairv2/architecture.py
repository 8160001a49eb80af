"""The family of MambaIRv2, and its named models."""

from __future__ import annotations

from qmamba.models.architecture import Architecture
from qmamba.models.mambair.conversion import refit_mambair
from qmamba.models.mambairv2.config import MambaIRv2Config
from qmamba.models.mambairv2.conversion import (
    convert_mambairv2,
    infer_mambairv2_config,
    is_mambairv2,
)
from qmamba.models.mambairv2.flops import mambairv2_flops
from qmamba.models.mambairv2.network import MambaIRv2

_LIGHT = MambaIRv2Config()
_BASE = MambaIRv2Config(
    task="sr-classic",
    dim=174,
    depths=(6,) * 6,
    heads=6,
    state_size=16,
    expansion=2.0,
    classes=128,
    prompt_rank=64,
    feed_forward="convolutional",
)
_SIZES = {
    "small": _BASE.replace(dim=132, depths=(4,) * 6, heads=4),
    "base": _BASE,
    "large": _BASE.replace(depths=(6,) * 9),
}
_DENOISE = _BASE.replace(task="denoise", scale=1)
_NANO = MambaIRv2Config(dim=32, depths=(2, 2, 2), heads=2, window=8, state_size=4, classes=32)

MAMBAIRV2 = Architecture(
    config=MambaIRv2Config,
    build=MambaIRv2,
    models={
        **{f"mambairv2-nano-x{scale}": _NANO.replace(scale=scale) for scale in (2, 3, 4)},
        **{f"mambairv2-light-x{scale}": _LIGHT.replace(scale=scale) for scale in (2, 3, 4)},
        **{
            f"mambairv2-{size}-x{scale}": config.replace(scale=scale)
            for size, config in _SIZES.items()
            for scale in (2, 3, 4)
        },
        "mambairv2-denoise-color": _DENOISE,
        "mambairv2-denoise-gray": _DENOISE.replace(channels=1),
        "mambairv2-jpeg": _DENOISE.replace(task="jpeg", channels=1),
    },
    flops=mambairv2_flops,
    recognizes=is_mambairv2,
    convert=convert_mambairv2,
    infer=infer_mambairv2_config,
    refit=refit_mambair,
    rates=False,
    quantizable=True,
    tensors_per_block=40,
)
