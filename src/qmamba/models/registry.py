"""The families of networks and their named models: one plain dictionary of records."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from qmamba.errors import ConfigError, unknown_name
from qmamba.models.architecture import Architecture
from qmamba.models.deiqt.architecture import DEIQT_FAMILY
from qmamba.models.fields import NetworkConfig
from qmamba.models.loda.architecture import LODA
from qmamba.models.mambair.architecture import MAMBAIR
from qmamba.models.mambairv2.architecture import MAMBAIRV2
from qmamba.models.network import Network
from qmamba.models.qmamba.architecture import QMAMBA
from qmamba.models.timm.architecture import TIMM

ARCHITECTURES: dict[str, Architecture] = {
    record.name: record for record in (QMAMBA, MAMBAIR, MAMBAIRV2, DEIQT_FAMILY, LODA, TIMM)
}
"""Every family of networks, by the name that weights files have for it."""


def architecture_of(network: Network | NetworkConfig) -> Architecture:
    """The record of the family that a network or a configuration belongs to."""
    config = network if isinstance(network, NetworkConfig) else network.config
    return ARCHITECTURES[config.architecture]


def recognize(state: Mapping[str, Tensor], name: str | None = None) -> Architecture:
    """The family of a foreign state dict, or that of a named model which can start from it.

    What no family knows is taken for the first one, whose error says what it misses.
    """
    asked = None if name is None else architecture_of(model_config(name))
    if asked is not None and asked.starts(state):
        return asked
    known = (record for record in ARCHITECTURES.values() if record.recognizes(state))
    return next(known, next(iter(ARCHITECTURES.values())))


def named_configs() -> dict[str, NetworkConfig]:
    """The configuration of every model that :func:`create_model` can build, by its name."""
    return {
        name: config for record in ARCHITECTURES.values() for name, config in record.models.items()
    }


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell pattern, for example ``"lq*"``.

    Example:
        >>> list_models("lqmamba-t*")
        ['lqmamba-tiny']
    """
    return [name for name in named_configs() if fnmatchcase(name, pattern)]


def model_config(name: str, **config_overrides: Any) -> NetworkConfig:
    """The configuration of a named model with some fields replaced.

    Raises:
        ConfigError: the name or a field is unknown, or a value is not allowed.
    """
    configs = named_configs()
    if name not in configs:
        raise ConfigError(unknown_name("model", name, configs))
    return configs[name].replace(**config_overrides)


def build_model(config: NetworkConfig) -> Network:
    """The network of a configuration, with fresh weights.

    Raises:
        QMambaError: it is a backbone of timm, which is not installed.
    """
    return architecture_of(config).build(config)


def create_model(name: str, **config_overrides: Any) -> Network:
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

    Example:
        >>> model = create_model("lqmamba-nano", windows=(4, 4, 2, 2), num_outputs=5)
        >>> model.config.windows
        (4, 4, 2, 2)
    """
    return build_model(model_config(name, **config_overrides))


def name_of(config: NetworkConfig) -> str | None:
    """The name of a model that differs at most in its training, its outputs and its routing."""
    record = architecture_of(config)
    config = config.without("drop_path", "num_outputs", "routing", "routing_seed")
    return next((name for name, known in record.models.items() if known == config), None)
