"""A quality model with prompts: the frozen network of a base and the few tensors that are its own.

Frozen tensors lie in the memory of the base, so that many tunings of one base cost little more than
the base alone.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from qmamba.errors import ConfigError
from qmamba.models import QMamba, QMambaConfig
from qmamba.nn.scale_shift import add_scale_shift
from qmamba.prompts.config import PROMPT_METHODS, TuningConfig
from qmamba.prompts.modules import ConvolutionPrompt, CrossAttentionPrompt, StylePrompt

USUAL_SIDE = 224
"""Side of the images, in pixels, whose maps prompts of the size "layer" have."""

Part = TypeVar("Part", bound=nn.Module)


@dataclass(frozen=True)
class BaseIdentity:
    """Which model a tuning belongs to."""

    name: str
    """Its name, for people; ``"unnamed"`` for a model that never was a file."""
    file_sha256: str | None
    """Digest of the file that it was loaded from, if it was."""
    weights_sha256: str
    """Digest of its configuration and all its tensors: what decides whether a base is the one."""


_REGRESSOR = ("classifier.head.", "classifier.statistics.")
"""Keys of what turns features and image statistics into the outputs."""


class TunedQMamba(QMamba):
    """A QMamba whose tensors are those of a base, except what its tuning adds or frees.

    The keys of the base's state dict stay as they are; prompts have keys ``prompts.*``, scales and
    shifts ``*.scale`` and ``*.shift`` beside the weights that they belong to.

    Args:
        base: a network that is not tuned itself; it is not changed. Tensors that stay frozen share
            its memory, so a change of the base changes this network, too.
        tuning: what is trained. New tensors are drawn from torch's global generator; the network
            computes exactly what the base does until they are trained.

    Raises:
        ConfigError: the base is tuned already.
    """

    def __init__(self, base: QMamba, tuning: TuningConfig) -> None:
        if isinstance(base, TunedQMamba):
            raise ConfigError(
                "The base is a tuned model; tune the model that it was made from instead."
            )
        # All parts come from the base, so QMamba's own constructor has nothing to build.
        nn.Module.__init__(self)
        self.config = base.config
        self.tuning = tuning
        self.base = identity_of(base)
        """Which model the frozen tensors come from; no digest on the device ``meta``."""
        self.metadata, self.load_report = base.metadata, base.load_report
        everything = tuning.method == "full"
        taken = _own if everything else _shared
        self.patch_embed = taken(base.patch_embed)
        self.layers = taken(base.layers)
        self.classifier = taken(base.classifier)
        if tuning.trains_regressor:
            self.classifier.head = _own(base.classifier.head)
            if base.classifier.statistics is not None:
                self.classifier.statistics = _own(base.classifier.statistics)
        like = base.classifier.head.weight
        self.prompts = None
        if tuning.method in PROMPT_METHODS:
            self.prompts = nn.ModuleList(stage_prompts(base.config, tuning)).to(like)
        if tuning.method == "ssf":
            for layer in _operations(self):
                add_scale_shift(layer)
        self.train(base.training)

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors that the base does not have or that replace its own, by key."""
        return {
            key: value for key, value in self.state_dict().items() if is_trained(key, self.tuning)
        }

    def train(self, mode: bool = True) -> TunedQMamba:
        """As for any module, but a frozen backbone never drops paths."""
        super().train(mode)
        if self.tuning.method != "full":
            self.layers.eval()
        return self


def attach(base: QMamba, tuning: TuningConfig) -> TunedQMamba:
    """The model to train: ``base`` with prompts, everything else frozen; see :class:`TunedQMamba`.

    Only what is trained requires gradients, so any training loop leaves the rest alone.
    """
    return TunedQMamba(base, tuning)


def is_trained(key: str, tuning: TuningConfig) -> bool:
    """Whether the tensor with this key of a tuned network is trained."""
    return (
        tuning.method == "full"
        or key.startswith("prompts.")
        or (tuning.method == "ssf" and key.endswith((".scale", ".shift")))
        or (tuning.trains_regressor and key.startswith(_REGRESSOR))
    )


def count_tuned(config: QMambaConfig, tuning: TuningConfig) -> int:
    """Number of trained parameters, without building anything."""
    with torch.device("meta"):
        model = TunedQMamba(QMamba(config), tuning)
    return sum(tensor.numel() for tensor in model.trained_state().values())


def stage_prompts(config: QMambaConfig, tuning: TuningConfig) -> Iterator[nn.Module]:
    """One fresh prompt per stage, for the map after its downsampling."""
    last = len(config.dims) - 1
    side = USUAL_SIDE // 4
    for stage in range(last + 1):
        channels = config.dims[min(stage + 1, last)]
        side = side if stage == last else (side + 1) // 2
        if tuning.method == "cross-attention":
            yield CrossAttentionPrompt(channels, tuning.prompts)
        elif tuning.method == "convolution":
            yield ConvolutionPrompt(channels, tuning.prompts, tuning.width)
        else:
            yield StylePrompt(
                channels,
                tuning.prompts,
                tuning.width,
                (side, side) if tuning.size == "layer" else tuning.size,
                convolution_bias=tuning.convolution_bias,
            )


def identity_of(base: QMamba) -> BaseIdentity:
    """Name and digests of a base."""
    config = base.config.to_dict()
    if not config["statistics"]:
        # Tuned files from before there was this field have to find their base.
        del config["statistics"]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for key, tensor in sorted(base.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)}\n".encode())
        if not tensor.is_meta:
            values = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
            digest.update(values.astype(np.dtype("<f4"), copy=False).data)
    described = base.metadata
    return BaseIdentity(
        name="unnamed" if described is None else described.name,
        file_sha256=None if described is None else described.sha256,
        weights_sha256=digest.hexdigest(),
    )


def _operations(model: QMamba) -> Iterator[nn.Module]:
    """Everything but the regressor and the route gates, whose norm never forms its result."""
    for name, layer in model.named_modules():
        if ".multi_scan." not in name and not f"{name}.".startswith(_REGRESSOR):
            yield layer


def _shared(part: Part) -> Part:
    """A copy of a part with parameters of its own, frozen, in the same memory."""
    memo: dict[int, object] = {}
    for parameter in part.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    for buffer in part.buffers():
        memo[id(buffer)] = buffer
    return copy.deepcopy(part, memo)


def _own(part: Part) -> Part:
    """A copy of a part with memory of its own, to be trained."""
    return copy.deepcopy(part).requires_grad_(True)
