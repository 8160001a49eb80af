"""What is trained when a quality model is adapted to other images."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from qmamba.errors import ConfigError
from qmamba.models.fields import MAX_WIDTH, choice, whole

TuningMethod: TypeAlias = Literal[
    "none", "probe", "full", "ssf", "style", "cross-attention", "convolution"
]
"""The tunings of the paper's comparison; see :class:`TuningConfig`."""

PROMPT_METHODS = ("style", "cross-attention", "convolution")
"""The methods that put one prompt after every stage."""

_MOST_PROMPTS = 1024
_LARGEST_SIDE = 1024


@dataclass(frozen=True)
class TuningConfig:
    """Which parameters a tuning adds or frees; everything else of the model stays as it is.

    ``"style"`` is StylePrompt, ``"cross-attention"`` and ``"convolution"`` are the prompts that it
    is compared with, one after every stage of the backbone. ``"ssf"`` scales and shifts the result
    of every linear layer, norm and convolution. ``"probe"`` trains the regressor (the head) alone,
    ``"full"`` everything, ``"none"`` nothing.

    Raises:
        ConfigError: a value is outside its range, or the regressor is asked for where the method
            decides that itself.

    Source: QMamba paper, section 3.2 and tables 3, 8, 9 and 10; SSF of Lian et al., NeurIPS 2022.
    """

    method: TuningMethod = "style"
    regressor: bool = False
    """Train the linear head as well ("& R" in the paper)."""
    prompts: int = 6
    """Prompt components that are mixed for each image."""
    width: int = 256
    """Channels of a prompt; those of the cross-attention prompt are the stage's."""
    size: tuple[int, int] | Literal["layer"] = (1, 1)
    """Height and width of a StylePrompt; ``"layer"`` is the size of the map that it follows, for a
    image of 224 x 224."""
    convolution_bias: bool = True
    """Bias of StylePrompt's convolution; the paper's parameter count fits with it (3.83 M)."""

    def __post_init__(self) -> None:
        choice("method", self.method, get_args(TuningMethod))
        for field in ("regressor", "convolution_bias"):
            if not isinstance(getattr(self, field), bool):
                raise ConfigError(
                    f"{field} must be true or false, got {reprlib.repr(getattr(self, field))}."
                )
        if self.regressor and self.method in ("none", "probe", "full"):
            effect = "nothing; choose probe" if self.method == "none" else "it anyway"
            raise ConfigError(
                f"The option regressor goes with prompts and ssf; {self.method} trains {effect}."
            )
        whole("prompts", self.prompts, 1, _MOST_PROMPTS)
        whole("width", self.width, 1, MAX_WIDTH)
        object.__setattr__(self, "size", _checked_size(self.size))
        if self.size != (1, 1) and self.method != "style":
            raise ConfigError(f"Only style has a size; that of {self.method} is (1, 1).")

    @property
    def trains_regressor(self) -> bool:
        """Whether the head is trained."""
        return self.regressor or self.method in ("probe", "full")

    def __str__(self) -> str:
        """The name of the row in the paper's tables, such as ``"style & R"``."""
        return f"{self.method} & R" if self.regressor else self.method

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values; :meth:`from_dict` is the inverse."""
        values = dataclasses.asdict(self)
        return {**values, "size": self.size if self.size == "layer" else list(self.size)}

    @classmethod
    def from_dict(cls, values: Any) -> TuningConfig:
        """The tuning that :meth:`to_dict` described.

        Raises:
            ConfigError: a field is missing, unknown or not allowed.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, Mapping) or set(values) != names:
            raise ConfigError(
                f"A tuning must have exactly the fields {sorted(names)}, got "
                f"{reprlib.repr(values)}."
            )
        return cls(**values)


def _checked_size(size: Any) -> tuple[int, int] | Literal["layer"]:
    if size == "layer":
        return "layer"
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ConfigError(
            f"The option size must be a height and a width or 'layer', got {reprlib.repr(size)}."
        )
    for side in size:
        whole("size", side, 1, _LARGEST_SIDE)
    return (size[0], size[1])
