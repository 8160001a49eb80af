"""State dicts of VMamba and QMamba: official checkpoints, their configuration, other heads."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Size, Tensor

from qmamba.errors import CheckpointError, ConfigError
from qmamba.models.fields import expansion_of
from qmamba.models.qmamba.config import QMambaConfig
from qmamba.models.state_dicts import Conversion, Refit, block_counts, size_of

PUBLISHED_CUTS: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[int, ...]] = {
    ((96, 192, 384, 768), (2, 2, 5, 2)): (2, 2, 4, 2),
}
"""Widths and depths of a public checkpoint, and the depths to which QMamba cuts it.

QMamba-T has one block less than the only public VMamba-T of its kind; the first blocks are kept.
"""

_PREFIXES = ("module.", "backbone.")
_RENAMES = (
    (re.compile(r"^patch_embed\.proj\."), "patch_embed.0."),
    (re.compile(r"^patch_embed\.norm\."), "patch_embed.2."),
    (re.compile(r"^(layers\.\d+\.blocks\.\d+)\.ln_1\."), r"\1.norm."),
    (re.compile(r"^(layers\.\d+\.blocks\.\d+)\.self_attention\."), r"\1.op."),
    (re.compile(r"^norm\."), "classifier.norm."),
    (re.compile(r"^head\."), "classifier.head."),
)
_LINEAR = re.compile(r"\.(in_proj|out_proj|fc1|fc2)\.weight$")
_BACKBONE_NORM = re.compile(r"^outnorm\d*\.")
_BLOCK = re.compile(r"^layers\.(\d{1,4})\.blocks\.(\d{1,4})\.")
_SCAN = re.compile(r"^layers\.\d+\.blocks\.\d+\.op\.A_logs$")
_GATE = re.compile(r"^layers\.\d+\.blocks\.\d+\.op\.multi_scan\.attn\.")
_CLASSIFIER = "classifier."
_HEAD = "classifier.head."
_STATISTICS = "classifier.statistics."


def is_vmamba(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint has stages of blocks with a selective scan, as VMamba and QMamba do."""
    return any(_SCAN.match(_our_key(key)) for key in state)


def convert_vmamba(content: Mapping[str, Tensor]) -> Conversion:
    """Rename and reshape the tensors of a VMamba checkpoint.

    Handles the channel-first builds (linear weights as 1x1 convolutions), names of early versions,
    the prefixes of wrapped models and the output norms of detection backbones.

    Raises:
        CheckpointError: two tensors claim the same place.
    """
    state: dict[str, Tensor] = {}
    dropped, converted = [], []
    for original, tensor in content.items():
        key = _our_key(original)
        if _BACKBONE_NORM.match(key):
            dropped.append(original)
            continue
        if key in state:
            raise CheckpointError(
                f"The checkpoint holds {key} twice, the second time as {original}."
            )
        squeeze = _LINEAR.search(key) is not None and tensor.dim() == 4
        state[key] = tensor[:, :, 0, 0] if squeeze and tensor.shape[2:] == (1, 1) else tensor
        if key != original or state[key] is not tensor:
            converted.append(f"{original} -> {key}")
    return Conversion("vmamba", state, tuple(dropped), tuple(converted))


def infer_config(state: Mapping[str, Tensor]) -> QMambaConfig:
    """The configuration with which a converted state dict was made, cut as in QMamba.

    Windows leave no trace in the weights and are taken as 1; the head has one output.

    Raises:
        CheckpointError: the tensors do not describe stages of VMamba blocks.
    """
    try:
        depths = file_depths(state)
        dims = tuple(
            size_of(state, f"layers.{i}.blocks.0.norm.weight", 0) for i in range(len(depths))
        )
        first = "layers.0.blocks.0."
        inner = size_of(state, first + "op.out_proj.weight", 1)
        return QMambaConfig(
            dims=dims,
            depths=PUBLISHED_CUTS.get((dims, depths), depths),
            windows=(1,) * len(dims),
            route_gate=first + "op.multi_scan.attn.norm.weight" in state,
            state_size=size_of(state, first + "op.A_logs", 1),
            expansion=expansion_of(inner, dims[0]),
            mlp_ratio=size_of(state, first + "mlp.fc1.weight", 0) / dims[0],
        )
    except (ConfigError, KeyError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"The checkpoint is not a VMamba of the kind that QMamba is built from (norm, scan "
            f"without z gate, MLP in every block): {error}"
        ) from error


def refit_qmamba(
    state: Mapping[str, Tensor],
    shapes: Mapping[str, Size],
    given: QMambaConfig,
    wanted: QMambaConfig,
) -> Refit:
    """What may be dropped and left fresh when a state starts another QMamba.

    The head and the image statistics where they have another size, the whole classifier where there
    is none, the gates where the state is that of a VMamba, and the blocks that QMamba cuts from a
    published checkpoint.

    Args:
        state: the tensors that there are.
        shapes: the tensors that the network needs.
        given: the configuration that the state was made with.
        wanted: the configuration of the network.
    """
    dropped = set(surplus_blocks(state, wanted))
    fresh: set[str] = set()
    for part in (_HEAD, _STATISTICS):
        keys = {key for key in shapes if key.startswith(part)}
        if any(key not in state or state[key].shape != shapes[key] for key in keys):
            fresh |= keys
            dropped |= keys & state.keys()
    if not any(key.startswith(_CLASSIFIER) for key in state):
        fresh |= {key for key in shapes if key.startswith(_CLASSIFIER)}
    if not any(_GATE.match(key) for key in state):
        fresh |= {key for key in shapes if _GATE.match(key)}
    return Refit(dropped, fresh)


def surplus_blocks(state: Mapping[str, Tensor], config: QMambaConfig) -> tuple[str, ...]:
    """Tensors of the blocks that QMamba cuts from a published checkpoint, if this is one."""
    depths = file_depths(state)
    if PUBLISHED_CUTS.get((config.dims, depths)) != config.depths:
        return ()
    surplus = []
    for key in state:
        block = _BLOCK.match(key)
        if block and int(block[2]) >= config.depths[int(block[1])]:
            surplus.append(key)
    return tuple(surplus)


def file_depths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks of each stage that the keys speak of; empty where they speak of none."""
    return block_counts(state, _BLOCK)


def _our_key(key: str) -> str:
    while key.startswith(_PREFIXES):
        key = key.split(".", 1)[1]
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    return key
