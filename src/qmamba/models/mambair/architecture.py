"""The family of MambaIR, and its named models."""

from __future__ import annotations

from qmamba.models.architecture import Architecture
from qmamba.models.mambair.config import MambaIRConfig
from qmamba.models.mambair.conversion import (
    convert_mambair,
    infer_mambair_config,
    is_mambair,
    refit_mambair,
)
from qmamba.models.mambair.flops import mambair_flops
from qmamba.models.mambair.network import MambaIR

_CLASSIC = MambaIRConfig(
    task="sr-classic",
    dim=180,
    depths=(6,) * 6,
    state_size=16,
    expansion=2.0,
    cab="convolution",
    cab_reduction=3,
)
_LIGHT = MambaIRConfig()
_DENOISE = _CLASSIC.replace(task="denoise", scale=1, expansion=1.2)
# Few states and many convolutions, because on a CPU the scan costs most and grows with the states.
_NANO_LIGHT = MambaIRConfig(
    dim=32, depths=(2, 2, 2), state_size=4, expansion=1.0, attention_reduction=8
)
_NANO_DENOISE = _NANO_LIGHT.replace(task="denoise", scale=1)

MAMBAIR = Architecture(
    config=MambaIRConfig,
    build=MambaIR,
    models={
        "mambair-nano-x2": _NANO_LIGHT,
        "mambair-nano-x3": _NANO_LIGHT.replace(scale=3),
        "mambair-nano-x4": _NANO_LIGHT.replace(scale=4),
        "mambair-nano-denoise": _NANO_DENOISE,
        "mambair-nano-denoise-blind": _NANO_DENOISE.replace(condition_channels=1),
        "mambair-nano-jpeg": _NANO_DENOISE.replace(task="jpeg", channels=1),
        "mambair-nano-jpeg-color": _NANO_DENOISE.replace(task="jpeg"),
        "mambair-light-x2": _LIGHT,
        "mambair-light-x3": _LIGHT.replace(scale=3),
        "mambair-light-x4": _LIGHT.replace(scale=4),
        "mambair-classic-x2": _CLASSIC,
        "mambair-classic-x3": _CLASSIC.replace(scale=3),
        "mambair-classic-x4": _CLASSIC.replace(scale=4),
        "mambair-denoise-color": _DENOISE,
        "mambair-denoise-gray": _DENOISE.replace(channels=1),
        "mambair-jpeg": _DENOISE.replace(task="jpeg", channels=1),
    },
    flops=mambair_flops,
    recognizes=is_mambair,
    convert=convert_mambair,
    infer=infer_mambair_config,
    refit=refit_mambair,
    rates=False,
    quantizable=True,
    tensors_per_block=18,
)
