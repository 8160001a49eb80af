"""The family of LoDa."""

from __future__ import annotations

from qmamba.models.architecture import Architecture
from qmamba.models.loda.config import LoDaConfig
from qmamba.models.loda.conversion import (
    convert_loda,
    infer_loda_config,
    is_loda,
    refit_loda,
    starts_loda,
)
from qmamba.models.loda.flops import loda_flops
from qmamba.models.loda.network import LoDa

LODA = Architecture(
    config=LoDaConfig,
    build=LoDa,
    models={"loda": LoDaConfig()},
    flops=loda_flops,
    recognizes=is_loda,
    starts=starts_loda,
    convert=convert_loda,
    infer=infer_loda_config,
    refit=refit_loda,
    rates=True,
    safetensors=True,
    parameters=lambda config: config.parameters,
)
