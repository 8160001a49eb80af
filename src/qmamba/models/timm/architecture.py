"""The family of the backbones that QMamba is compared with."""

from __future__ import annotations

from qmamba.models.architecture import Architecture
from qmamba.models.timm.config import BACKBONES, TimmConfig
from qmamba.models.timm.conversion import convert_timm, infer_timm_config, is_timm, refit_timm
from qmamba.models.timm.flops import timm_flops
from qmamba.models.timm.network import TimmBackbone

TIMM = Architecture(
    config=TimmConfig,
    build=TimmBackbone,
    models={name: TimmConfig(backbone=name) for name in BACKBONES},
    flops=timm_flops,
    recognizes=is_timm,
    convert=convert_timm,
    infer=infer_timm_config,
    refit=refit_timm,
    rates=True,
    safetensors=True,
    parameters=lambda config: config.parameters,
)
