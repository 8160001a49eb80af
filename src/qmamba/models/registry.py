"""The named models: one plain dictionary from name to configuration."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from qmamba.errors import ConfigError
from qmamba.models.config import QMambaConfig
from qmamba.models.names import unknown_name
from qmamba.models.qmamba import QMamba

_TINY = QMambaConfig(dims=(96, 192, 384, 768), depths=(2, 2, 4, 2))
_SMALL = QMambaConfig(dims=(96, 192, 384, 768), depths=(2, 2, 15, 2))
_BASE = QMambaConfig(dims=(128, 256, 512, 1024), depths=(2, 2, 15, 2))
_NANO = QMambaConfig(dims=(32, 64, 128, 256), depths=(1, 2, 3, 1))


def _local(config: QMambaConfig) -> QMambaConfig:
    # The paper gives no window sizes; these are 32 image pixels in the first three stages and
    # reproduce its FLOP counts.
    return config.replace(windows=(8, 4, 2, 2), route_gate=True)


MODELS: dict[str, QMambaConfig] = {
    "qmamba-nano": _NANO,
    "qmamba-tiny": _TINY,
    "qmamba-small": _SMALL,
    "qmamba-base": _BASE,
    "lqmamba-nano": _local(_NANO),
    "lqmamba-tiny": _local(_TINY),
    "lqmamba-small": _local(_SMALL),
    "lqmamba-base": _local(_BASE),
}
"""Every model that :func:`create_model` can build."""


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell pattern, for example ``"lq*"``."""
    return [name for name in MODELS if fnmatchcase(name, pattern)]


def model_config(name: str, **config_overrides: Any) -> QMambaConfig:
    """The configuration of a named model with some fields replaced.

    Raises:
        ConfigError: the name or a field is unknown, or a value is not allowed.
    """
    if name not in MODELS:
        raise ConfigError(unknown_name("model", name, MODELS))
    return MODELS[name].replace(**config_overrides)


def create_model(name: str, **config_overrides: Any) -> QMamba:
    """Build a named model with fresh weights, in training mode, on torch's default device.

    Weights are drawn from torch's global generator; :func:`qmamba.models.load` has trained ones.

    Args:
        name: one of :func:`list_models`.
        config_overrides: fields of :class:`~qmamba.models.QMambaConfig`, for example
            ``num_outputs=5`` or ``windows=(7, 7, 2, 2)``.

    Raises:
        ConfigError: the name or a field is unknown, or a value is not allowed.
    """
    return QMamba(model_config(name, **config_overrides))
