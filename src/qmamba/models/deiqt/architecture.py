"""The family of DEIQT."""

from __future__ import annotations

from qmamba.models.architecture import Architecture
from qmamba.models.deiqt.config import DEIQTConfig
from qmamba.models.deiqt.conversion import (
    convert_deiqt,
    infer_deiqt_config,
    is_deiqt,
    refit_deiqt,
    starts_deiqt,
)
from qmamba.models.deiqt.flops import deiqt_flops
from qmamba.models.deiqt.network import DEIQT

DEIQT_FAMILY = Architecture(
    config=DEIQTConfig,
    build=DEIQT,
    models={"deiqt": DEIQTConfig()},
    flops=deiqt_flops,
    recognizes=is_deiqt,
    starts=starts_deiqt,
    convert=convert_deiqt,
    infer=infer_deiqt_config,
    refit=refit_deiqt,
    rates=True,
    tensors_per_block=14,
    safetensors=True,
)
