"""The named models: one plain dictionary from name to configuration."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from qmamba.errors import ConfigError
from qmamba.models.mambair.config import MambaIRConfig
from qmamba.models.mambair.network import MambaIR
from qmamba.models.names import unknown_name
from qmamba.models.qmamba.config import QMambaConfig
from qmamba.models.qmamba.network import QMamba
from qmamba.models.timm.config import BACKBONES, TimmConfig
from qmamba.models.timm.network import TimmBackbone

Config: TypeAlias = QMambaConfig | MambaIRConfig | TimmConfig
QualityModel: TypeAlias = QMamba | TimmBackbone
Model: TypeAlias = QualityModel | MambaIR

CONFIGS: dict[str, type[Config]] = {
    QMambaConfig.architecture: QMambaConfig,
    MambaIRConfig.architecture: MambaIRConfig,
    TimmConfig.architecture: TimmConfig,
}
"""Every kind of network, by the name that weights files have for it."""

_TINY = QMambaConfig(dims=(96, 192, 384, 768), depths=(2, 2, 4, 2))
_SMALL = QMambaConfig(dims=(96, 192, 384, 768), depths=(2, 2, 15, 2))
_BASE = QMambaConfig(dims=(128, 256, 512, 1024), depths=(2, 2, 15, 2))
_NANO = QMambaConfig(dims=(32, 64, 128, 256), depths=(1, 2, 3, 1))
_MINI = QMambaConfig(dims=(48, 96, 192, 384), depths=(1, 2, 3, 1))


def _local(config: QMambaConfig) -> QMambaConfig:
    # The paper gives no window sizes; these are 32 image pixels in the first three stages and
    # reproduce its FLOP counts.
    return config.replace(windows=(8, 4, 2, 2), route_gate=True)


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

MODELS: dict[str, Config] = {
    "qmamba-nano": _NANO,
    "qmamba-mini": _MINI,
    "qmamba-tiny": _TINY,
    "qmamba-small": _SMALL,
    "qmamba-base": _BASE,
    "lqmamba-nano": _local(_NANO),
    "lqmamba-tiny": _local(_TINY),
    "lqmamba-small": _local(_SMALL),
    "lqmamba-base": _local(_BASE),
    "mambair-nano-x2": _NANO_LIGHT,
    "mambair-nano-x3": _NANO_LIGHT.replace(scale=3),
    "mambair-nano-x4": _NANO_LIGHT.replace(scale=4),
    "mambair-nano-denoise": _NANO_DENOISE,
    "mambair-nano-jpeg": _NANO_DENOISE.replace(task="jpeg", channels=1),
    "mambair-light-x2": _LIGHT,
    "mambair-light-x3": _LIGHT.replace(scale=3),
    "mambair-light-x4": _LIGHT.replace(scale=4),
    "mambair-classic-x2": _CLASSIC,
    "mambair-classic-x3": _CLASSIC.replace(scale=3),
    "mambair-classic-x4": _CLASSIC.replace(scale=4),
    "mambair-denoise-color": _DENOISE,
    "mambair-denoise-gray": _DENOISE.replace(channels=1),
    "mambair-jpeg": _DENOISE.replace(task="jpeg", channels=1),
    **{name: TimmConfig(backbone=name) for name in BACKBONES},
}
"""Every model that :func:`create_model` can build."""


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell pattern, for example ``"lq*"``."""
    return [name for name in MODELS if fnmatchcase(name, pattern)]


def model_config(name: str, **config_overrides: Any) -> Config:
    """The configuration of a named model with some fields replaced.

    Raises:
        ConfigError: the name or a field is unknown, or a value is not allowed.
    """
    if name not in MODELS:
        raise ConfigError(unknown_name("model", name, MODELS))
    return MODELS[name].replace(**config_overrides)


def build_model(config: Config) -> Model:
    """The network of a configuration, with fresh weights.

    Raises:
        QMambaError: it is a backbone of timm, which is not installed.
    """
    if isinstance(config, TimmConfig):
        return TimmBackbone(config)
    return MambaIR(config) if isinstance(config, MambaIRConfig) else QMamba(config)


def create_model(name: str, **config_overrides: Any) -> Model:
    """Build a named model with fresh weights, in training mode, on torch's default device.

    Weights are drawn from torch's global generator; :func:`qmamba.load` has trained ones.

    Args:
        name: one of :func:`list_models`.
        config_overrides: fields of :class:`~qmamba.models.QMambaConfig`, for example
            ``num_outputs=5`` or ``windows=(7, 7, 2, 2)``; of
            :class:`~qmamba.models.MambaIRConfig` for a ``mambair-*``, for example ``channels=1``;
            of :class:`~qmamba.models.TimmConfig` for a ``resnet-*``, ``vit-*`` or ``swin-*``.

    Raises:
        ConfigError: the name or a field is unknown, or a value is not allowed.
        QMambaError: a backbone of timm is asked for, and timm is not installed.
    """
    return build_model(model_config(name, **config_overrides))


def name_of(config: Config) -> str | None:
    """The name of a model that differs at most in its training and its number of outputs."""
    if not isinstance(config, MambaIRConfig):
        config = config.replace(num_outputs=1)
    config = config.replace(drop_path=0.0)
    return next((name for name, known in MODELS.items() if known == config), None)
