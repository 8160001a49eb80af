"""What restoration weights are for, and which of the embedded ones fit a request."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

from qmamba.checkpoints import describe, list_weights
from qmamba.errors import CheckpointError, ConfigError
from qmamba.models import ModelMetadata, RestorationConfig
from qmamba.restore.degradations import Degradation, TaskName

DEFAULT_TASK: TaskName = "sr"


@dataclass(frozen=True)
class RestorationRequest:
    """Which model is wanted; ``None`` leaves a value open.

    Raises:
        ConfigError: a value is no number, or belongs to another task.
    """

    task: TaskName | None = None
    """``sr``, ``denoise`` or ``jpeg``."""
    scale: int | None = None
    """Factor of ``sr``."""
    sigma: float | None = None
    """Deviation of the noise, on the scale 0 to 255."""
    quality: int | None = None
    """Quality of the JPEG file that is to be restored, 1 to 100."""
    real: bool = False
    """Of ``sr``: whether the images are slightly soft, noisy or compressed, as files are."""

    def __post_init__(self) -> None:
        for name, value, kind, what in (
            ("scale", self.scale, Integral, "a whole number"),
            ("sigma", self.sigma, Real, "a finite number"),
            ("quality", self.quality, Integral, "a whole number"),
        ):
            if value is not None and not (isinstance(value, kind) and math.isfinite(value)):
                raise ConfigError(f"The {name} must be {what}, got {value!r}.")
        owner = next(
            (
                task
                for task, value in (
                    ("sr", self.scale),
                    ("denoise", self.sigma),
                    ("jpeg", self.quality),
                    ("sr", True if self.real else None),
                )
                if value is not None and self.task not in (None, task)
            ),
            None,
        )
        if owner is not None:
            name = {"sr": "scale", "denoise": "sigma", "jpeg": "quality"}[owner]
            if owner == "sr" and self.scale is None:
                name = "choice of real images"
            raise ConfigError(
                f"A {name} belongs to the task {owner}, not to {self.task}; leave one of them out."
            )

    @property
    def task_or_implied(self) -> TaskName | None:
        """The task, or the one that the other values belong to."""
        if self.task is not None:
            return self.task
        if self.sigma is not None:
            return "denoise"
        if self.quality is not None:
            return "jpeg"
        return "sr" if self.scale is not None or self.real else None

    def __str__(self) -> str:
        values = {"scale": self.scale, "sigma": self.sigma, "quality": self.quality}
        given = [f"{name} {value:g}" for name, value in values.items() if value is not None]
        given += ["real"] * self.real
        return " ".join([self.task_or_implied or DEFAULT_TASK, *given])


def purpose_of(metadata: ModelMetadata | None) -> Degradation | None:
    """What a model undoes, as its weights file says it; ``None`` where it does not."""
    stored = None if metadata is None else metadata.training.get("degradation")
    try:
        return None if stored is None else Degradation.from_dict(stored)
    except (ConfigError, TypeError):
        return None


def is_for_jpeg_files(metadata: ModelMetadata | None) -> bool:
    """Whether a model restores JPEG files of any quality, as people have them."""
    purpose = purpose_of(metadata)
    return purpose is not None and purpose.real and purpose.task == "jpeg"


def check_request(
    request: RestorationRequest, config: RestorationConfig, metadata: ModelMetadata | None
) -> None:
    """Compare a request with the model that was named beside it.

    Raises:
        ConfigError: the model is for another task or scale, or for other strengths.
    """
    purpose = purpose_of(metadata)
    task = config.task_name
    name = "The model" if metadata is None else f"The model {metadata.name!r}"
    wanted = request.task_or_implied
    if wanted is not None and wanted != task:
        raise ConfigError(f"{name} is for {purpose or task}, not for {wanted}.")
    if request.scale is not None and request.scale != config.scale:
        raise ConfigError(f"{name} enlarges by {config.scale}, not by {request.scale}.")
    if request.real and purpose is not None and not purpose.real:
        raise ConfigError(f"{name} is for {purpose}, not for real files; leave that out to use it.")
    if purpose is not None and _distance(purpose, request) > 0:
        raise ConfigError(f"{name} is for {purpose}; leave the other value out to use it still.")


def find_weights(request: RestorationRequest) -> str:
    """The embedded weights that fit a request best.

    The task must be right: super-resolution where none is given. So must the scale; without one the
    smallest is taken. Of several that cover the strength the one with the narrowest range is
    taken, and where none is asked for the one with the widest.

    Raises:
        CheckpointError: none fits; the message names what there is.
    """
    task = request.task_or_implied or DEFAULT_TASK
    purposes = {
        name: purpose
        for name, purpose in embedded_purposes().items()
        if purpose.task == task and (task != "sr" or purpose.real == request.real)
    }
    fitting = {
        name: purpose
        for name, purpose in purposes.items()
        if request.scale in (None, purpose.scale) and _distance(purpose, request) == 0
    }
    if not fitting:
        there = ", ".join(f"{name} ({purpose})" for name, purpose in purposes.items())
        hint = "give a weights file or a hub id as the model (--model)"
        if purposes and task != "sr":
            hint = f"leave the strength out to use them still, or {hint}"
        raise CheckpointError(
            f"There are no embedded weights for {request}; there are "
            f"{there or 'none for this task'}: {hint}."
        )
    open_strength = request.sigma is None and request.quality is None
    return min(
        fitting,
        key=lambda name: (
            fitting[name].scale,
            -_width(fitting[name]) if open_strength else _width(fitting[name]),
            name,
        ),
    )


def embedded_purposes() -> dict[str, Degradation]:
    """What the embedded restoration weights are for, by name."""
    found = {}
    for name in list_weights():
        try:
            purpose = purpose_of(describe(name))
        except CheckpointError:
            continue
        if purpose is not None:
            found[name] = purpose
    return found


def _distance(purpose: Degradation, request: RestorationRequest) -> float:
    """How far the wanted strength lies outside the trained range."""
    for wanted, ends in ((request.sigma, purpose.sigma), (request.quality, purpose.quality)):
        if wanted is not None and ends is not None:
            return max(0.0, ends[0] - wanted, wanted - ends[1])
    return 0.0


def _width(purpose: Degradation) -> float:
    ends = purpose.sigma or purpose.quality or (0, 0)
    return ends[1] - ends[0]
