"""What is quantized how: one frozen configuration, with exceptions for single layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from qmamba.errors import ConfigError
from qmamba.quantization.qparams import check_bits
from qmamba.quantization.quantizers import (
    OFFICIAL,
    QUANTIZERS,
    STATISTICS,
    Operand,
    Quantizer,
    create_quantizer,
)

STEPS = ("prepare", "convert", "ptq")
"""Steps of :func:`~qmamba.quantization.quantize_`."""
FULL_PRECISION = 32
"""A number of bits that means: not quantized; the same as ``None``."""


@dataclass(frozen=True)
class LayerSettings:
    """How the weight and the activations of one layer are quantized.

    Raises:
        ConfigError: a value is unknown.
    """

    weight_bits: int | None = 4
    """Bits of weights: 2, 3, 4 or 8, or ``None`` (or 32) for full precision."""
    activation_bits: int | None = 4
    """Bits of activations, and of the constants of the scan (A, D and the bias of the steps)."""
    weight: str = "rfa"
    """Quantizer of weights, a key of :data:`~qmamba.quantization.QUANTIZERS`."""
    activation: str = "dls"
    """Quantizer of activations. ``dls`` means the placement of Q-MambaIR: DLS for the operands of
    the scan and the output projection, the static quantizer elsewhere. Any other name takes the
    place of both."""
    statistics: str = "sample"
    """Over what DLS takes its statistics: ``sample``, ``frozen`` or ``batch``."""

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits"):
            bits = getattr(self, name)
            if bits == FULL_PRECISION:
                object.__setattr__(self, name, None)
            elif bits is not None:
                check_bits(bits)
        for name, allowed in (
            ("weight", QUANTIZERS),
            ("activation", QUANTIZERS),
            ("statistics", STATISTICS),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}."
                )


@dataclass(frozen=True)
class QuantConfig(LayerSettings):
    """The settings of all layers, the step to take, and exceptions.

    Raises:
        ConfigError: a value is unknown, or ``compat`` is combined with what the official code has
            not.

    Example:
        >>> config = QuantConfig(weight_bits=4, overrides={"layers.0.*": {"weight_bits": 8}})
        >>> config.layer("layers.0.conv").weight_bits, config.layer("layers.1.conv").weight_bits
        (8, 4)
    """

    step: str = "prepare"
    """``prepare``: fake quantization for training; ``ptq``: the same for calibration without
    training; ``convert``: weights of a prepared model become fixed codes."""
    compat: bool = False
    """Compute RFA, DLS and the static quantizer as the official code does, flaws included."""
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of single layers by a shell pattern of their names: ``{"layers.0.*":
    {"weight_bits": 8}}``. Later ones win. Inside an SS2D the projections and the scan are called
    ``<name>.x_proj``, ``<name>.dt_proj`` and ``<name>.scan``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step not in STEPS:
            raise ConfigError(
                f"The option step must be one of {', '.join(STEPS)}, got {self.step!r}."
            )
        if not isinstance(self.compat, bool):
            raise ConfigError(f"The option compat must be True or False, got {self.compat!r}.")
        if not isinstance(self.overrides, Mapping):
            raise ConfigError("The option overrides must map patterns of layer names to settings.")
        object.__setattr__(
            self, "overrides", {key: dict(values) for key, values in self.overrides.items()}
        )
        for pattern in self.overrides:
            self._settings(pattern)

    def replace(self, **values: Any) -> QuantConfig:
        """A copy with other values."""
        return dataclasses.replace(self, **values)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values; ``QuantConfig(**values)`` is the inverse."""
        return dataclasses.asdict(self)

    def layer(self, name: str) -> LayerSettings:
        """The settings of the layer of a name."""
        return self._settings(*(key for key in self.overrides if fnmatchcase(name, key)))

    def weight_quantizer(self, name: str) -> Quantizer | None:
        """A quantizer for the weight of a layer, or ``None`` for full precision."""
        settings = self.layer(name)
        return self._create(settings.weight, settings.weight_bits, settings, Operand.weight())

    def activation_quantizer(
        self, name: str, operand: Operand | None = None, *, dynamic: bool = False
    ) -> Quantizer | None:
        """A quantizer for an activation of a layer, or ``None`` for full precision.

        Args:
            name: of the layer.
            operand: what is quantized; an activation with a batch axis by default.
            dynamic: whether DLS stands here in Q-MambaIR.
        """
        settings = self.layer(name)
        kind = settings.activation
        if kind == "dls" and not dynamic:
            kind = "static"
        return self._create(kind, settings.activation_bits, settings, operand or Operand())

    def _create(
        self, kind: str, bits: int | None, settings: LayerSettings, operand: Operand
    ) -> Quantizer | None:
        if bits is None:
            return None
        return create_quantizer(
            kind,
            bits,
            operand,
            statistics=settings.statistics,
            compat=self.compat and kind in OFFICIAL,
        )

    def _settings(self, *patterns: str) -> LayerSettings:
        names = [entry.name for entry in dataclasses.fields(LayerSettings)]
        values = {name: getattr(self, name) for name in names}
        for pattern in patterns:
            for name, value in self.overrides[pattern].items():
                if name not in values:
                    raise ConfigError(
                        f"The option overrides[{pattern!r}] has no setting {name!r}; there are "
                        f"{', '.join(names)}."
                    )
                values[name] = value
        return LayerSettings(**values)
