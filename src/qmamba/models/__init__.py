"""The networks: configurations, named models, weights files and their accounting."""

from qmamba.models.flops import FlopReport, count_flops, count_parameters
from qmamba.models.mambair.config import MambaIRConfig
from qmamba.models.mambair.network import RGB_MEAN, MambaIR
from qmamba.models.metadata import LoadReport, ModelMetadata, ScoreScale
from qmamba.models.qmamba.config import QMambaConfig
from qmamba.models.qmamba.network import IMAGE_MEAN, IMAGE_STD, QMamba, StageMaps
from qmamba.models.registry import (
    MODELS,
    Config,
    Model,
    QualityModel,
    build_model,
    create_model,
    list_models,
    model_config,
)
from qmamba.models.timm.config import TimmConfig
from qmamba.models.timm.network import TimmBackbone

__all__ = [
    "IMAGE_MEAN",
    "IMAGE_STD",
    "MODELS",
    "RGB_MEAN",
    "Config",
    "FlopReport",
    "LoadReport",
    "MambaIR",
    "MambaIRConfig",
    "Model",
    "ModelMetadata",
    "QMamba",
    "QMambaConfig",
    "QualityModel",
    "ScoreScale",
    "StageMaps",
    "TimmBackbone",
    "TimmConfig",
    "build_model",
    "count_flops",
    "count_parameters",
    "create_model",
    "list_models",
    "model_config",
]
