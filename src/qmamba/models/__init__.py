"""The networks: configurations, named models, weights files and their accounting."""

from qmamba.models.checkpoint import MismatchError, load, save_model
from qmamba.models.config import QMambaConfig
from qmamba.models.describe import describe
from qmamba.models.flops import FlopReport, count_flops, count_parameters
from qmamba.models.mambair import RGB_MEAN, MambaIR
from qmamba.models.mambair_config import MambaIRConfig
from qmamba.models.metadata import LoadReport, ModelMetadata, ScoreScale
from qmamba.models.qmamba import IMAGE_MEAN, IMAGE_STD, QMamba, StageMaps
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
from qmamba.models.sources import list_weights
from qmamba.models.timm_backbone import TimmBackbone
from qmamba.models.timm_config import TimmConfig

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
    "MismatchError",
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
    "describe",
    "list_models",
    "list_weights",
    "load",
    "model_config",
    "save_model",
]
