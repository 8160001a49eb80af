"""The networks: configurations, named models, weights files and their accounting."""

from qmamba.models.accounting import count_flops, count_parameters
from qmamba.models.architecture import Architecture
from qmamba.models.fields import NetworkConfig
from qmamba.models.flops import FlopReport
from qmamba.models.mambair.config import MambaIRConfig, RestorationConfig
from qmamba.models.mambair.network import RGB_MEAN, MambaIR
from qmamba.models.mambairv2.config import MambaIRv2Config
from qmamba.models.mambairv2.network import MambaIRv2
from qmamba.models.metadata import LoadReport, ModelMetadata, ScoreScale
from qmamba.models.network import Network, RatingNetwork
from qmamba.models.qmamba.config import QMambaConfig
from qmamba.models.qmamba.network import IMAGE_MEAN, IMAGE_STD, QMamba, StageMaps
from qmamba.models.registry import (
    ARCHITECTURES,
    architecture_of,
    build_model,
    create_model,
    list_models,
    model_config,
    named_configs,
)
from qmamba.models.timm.config import TimmConfig
from qmamba.models.timm.network import TimmBackbone

__all__ = [
    "ARCHITECTURES",
    "IMAGE_MEAN",
    "IMAGE_STD",
    "RGB_MEAN",
    "Architecture",
    "FlopReport",
    "LoadReport",
    "MambaIR",
    "MambaIRConfig",
    "MambaIRv2",
    "MambaIRv2Config",
    "ModelMetadata",
    "Network",
    "NetworkConfig",
    "QMamba",
    "QMambaConfig",
    "RatingNetwork",
    "RestorationConfig",
    "ScoreScale",
    "StageMaps",
    "TimmBackbone",
    "TimmConfig",
    "architecture_of",
    "build_model",
    "count_flops",
    "count_parameters",
    "create_model",
    "list_models",
    "model_config",
    "named_configs",
]
