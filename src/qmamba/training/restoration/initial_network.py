"""What a restoration run starts from: network, degradation and quantizers, from a few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import torch

from qmamba.checkpoints import load
from qmamba.errors import ConfigError
from qmamba.models import MambaIR, create_model, model_config
from qmamba.models.registry import build_model
from qmamba.quantization import QuantConfig, calibrate, quantize_
from qmamba.restore.degradations import Degradation, TaskName
from qmamba.training.restoration.interpolation import start_from_interpolation
from qmamba.training.restoration.task import RestorationTask
from qmamba.training.stream import derived_seed

DEGRADATION_KEY = "degradation"
"""Entry of the training record of a weights file that says what the network undoes."""

STARTS = ("interpolation", "random")

_DEFAULT_SCALE = 2
_DEFAULT_SIGMA = (25.0, 25.0)
_DEFAULT_QUALITY = (10, 50)
_REAL_SIGMA = (0.0, 50.0)
_REAL_QUALITY = (5, 95)


def restoration_network(
    task: str | None,
    scale: int | None = None,
    *,
    name: str | None = None,
    weights: str | Path | None = None,
    start: str = "interpolation",
    seed: int = 0,
    real: bool = False,
    **config_overrides: Any,
) -> MambaIR:
    """The network to train.

    Args:
        task: ``sr``, ``denoise`` or ``jpeg``; None takes what the name or the weights are for.
        scale: factor of super-resolution; None is 2, or that of the name or the weights.
        name: of a model; None takes the nano one of the task, or that of the weights.
        weights: embedded name, path or hub id to start from; of packed ones the values of their
            codes.
        start: without weights, ``interpolation`` (see
            :func:`~qmamba.training.restoration.interpolation.start_from_interpolation`) or
            ``random``.
        real: whether the network is for damage as files have it; a denoiser then has a map of the
            noise as its condition, whose weights start at zero where the given ones have none.
        seed: of fresh weights. The global random state is left as it was.
        config_overrides: fields of the configuration, such as ``drop_path=0.1``.

    Raises:
        ConfigError: the names contradict each other, or a value is not allowed.
        CheckpointError: the weights cannot be found or do not fit.
    """
    if start not in STARTS:
        raise ConfigError(f"The start must be one of {', '.join(STARTS)}, got {start!r}.")
    if name is None and weights is None:
        name = _nano_name(task, scale, real)
    if scale is not None and (name is None or model_config(name).to_dict().get("scale") != scale):
        config_overrides["scale"] = scale
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "weights"))
        if weights is not None:
            model = load(weights, name=name, dequantize=True, **config_overrides)
        else:
            assert name is not None
            model = create_model(name, **config_overrides)
    if not isinstance(model, MambaIR):
        raise ConfigError(
            f"{name or weights} restores no images; choose a mambair-* or mambairv2-* model."
        )
    if task is not None and task != model.config.task_name:
        raise ConfigError(f"{name or weights} is for {model.config.task_name} and not for {task}.")
    if real and model.config.task_name == "denoise" and not model.config.condition_channels:
        model = with_conditions(model, 1)
    if weights is None and start == "interpolation":
        start_from_interpolation(model)
    return model


@torch.no_grad()
def with_conditions(model: MambaIR, count: int) -> MambaIR:
    """A network that is given maps besides its image, and computes the same whatever they hold.

    Args:
        model: one without conditions.
        count: of the maps.

    Raises:
        ConfigError: the network cannot have as many.
    """
    wider = build_model(model.config.replace(condition_channels=count))
    assert isinstance(wider, MambaIR)
    state = dict(model.state_dict())
    key = "conv_first.weight"
    state[key] = torch.cat([state[key], torch.zeros_like(wider.conv_first.weight)[:, :count]], 1)
    wider.load_state_dict(state)
    wider.metadata, wider.load_report = model.metadata, model.load_report
    return wider


def degradation_for(
    model: MambaIR, sigma: str | None = None, quality: str | None = None, *, real: bool = False
) -> Degradation:
    """What a network shall undo.

    Args:
        model: decides task, scale and channels.
        sigma: ``"25"`` or ``"0-50"``; None takes what the weights were trained for, or 25.
        quality: ``"40"`` or ``"10-50"``; None takes what the weights were trained for, or 10-50.
        real: damage as files have it (then 0-50 and 5-95 where nothing is said); also without it
            where the weights were trained for that.

    Raises:
        ConfigError: a value cannot be read, is not allowed or is foreign to the task.
    """
    task = model.config.task_name
    before = recorded_degradation(model)
    real = real or (before is not None and before.real)
    strengths: dict[str, Any] = {}
    for key, owner, text, default in (
        ("sigma", "denoise", sigma, _REAL_SIGMA if real else _DEFAULT_SIGMA),
        ("quality", "jpeg", quality, _REAL_QUALITY if real else _DEFAULT_QUALITY),
    ):
        if text is not None:
            strengths[key] = _parsed_range(key, text)
        elif task == owner:
            same = before is not None and (before.task, before.real) == (task, real)
            strengths[key] = getattr(before, key) if same else default
    return Degradation(
        task,
        scale=model.config.scale,
        channels=model.config.channels,
        real=real,
        **strengths,
    )


def recorded_degradation(model: MambaIR) -> Degradation | None:
    """What the weights of a network were trained to undo, None where they do not say."""
    record = None if model.metadata is None else model.metadata.training.get(DEGRADATION_KEY)
    return None if record is None else Degradation.from_dict(record)


def prepare_quantized(
    model: MambaIR, config: QuantConfig, task: RestorationTask, *, examples: int = 8, seed: int = 0
) -> MambaIR:
    """Put fake quantizers into a network and start them on a few training examples, in place.

    The examples depend on the seed alone, so that all ranks of a distributed run start alike.
    """
    quantize_(model, config)
    batch = torch.stack(
        [
            task.example(
                index % task.examples,
                torch.Generator().manual_seed(derived_seed(seed, "calibration", index)),
            )["degraded"]
            for index in range(examples)
        ]
    )
    return calibrate(model, [batch])


def published_crop(degradation: Degradation) -> int:
    """Side of the crops of the degraded image in the published training."""
    if degradation.task != "sr":
        return 128
    return 48 if degradation.scale == 4 else 64


def _nano_name(task: str | None, scale: int | None, real: bool) -> str:
    if task is None:
        raise ConfigError("Say what is learned: a task (sr, denoise, jpeg), a model or weights.")
    if task not in get_args(TaskName):
        raise ConfigError(f"The task must be one of {', '.join(get_args(TaskName))}, got {task!r}.")
    if task != "sr":
        if scale not in (None, 1):
            raise ConfigError(f"The task {task} has no scale.")
        suffix = {"denoise": "-blind", "jpeg": "-color"}[task] if real else ""
        return f"mambair-nano-{task}{suffix}"
    wanted = scale or _DEFAULT_SCALE
    return f"mambair-nano-x{wanted if wanted in (2, 3, 4) else _DEFAULT_SCALE}"


def _parsed_range(name: str, text: str) -> tuple[float, float]:
    kind = float if name == "sigma" else int
    try:
        ends = [kind(part) for part in text.split("-")]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2):
        raise ConfigError(f"The {name} reads like 25 or 10-50, got {text!r}.")
    return ends[0], ends[-1]
