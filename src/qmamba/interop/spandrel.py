"""MambaIR for spandrel, which loads the restoration models of ComfyUI and many others.

Needs the extra ``spandrel``. Call :func:`register` once; from then on every
``spandrel.ModelLoader`` opens official MambaIR checkpoints and full-precision files of ours.
"""

from __future__ import annotations

from typing import Any

from qmamba.checkpoints.official import is_official
from qmamba.errors import CheckpointError
from qmamba.extras import declare_torchvision_operators, extra
from qmamba.models import MambaIR, MambaIRConfig
from qmamba.models.mambair.conversion import convert_mambair, infer_mambair_config

with extra("spandrel", "MambaIR in spandrel"):
    declare_torchvision_operators()
    from spandrel import (
        MAIN_REGISTRY,
        Architecture,
        ArchRegistry,
        ArchSupport,
        ImageModelDescriptor,
        ModelTiling,
    )
    from spandrel.util import KeyCondition

_BLOCK = "layers.0.residual_group.blocks.0."
_PACKED = {"codes", "numbers", "rest"}


def register(registry: ArchRegistry | None = None) -> list[str]:
    """Add MambaIR to a registry of spandrel; a second call adds nothing.

    An architecture of the same id that spandrel has itself stays.

    Args:
        registry: ``None`` is the main one, which every ``ModelLoader()`` uses.

    Returns:
        Identifiers of the architectures that were added.

    Example:
        >>> from spandrel import ModelLoader
        >>> from qmamba.interop.spandrel import register
        >>> register()
        ['MambaIR', 'MambaIR-packed']
        >>> ModelLoader().load_from_file("mambair_x2.pth").scale  # doctest: +SKIP
        2
    """
    supports = [ArchSupport.from_architecture(arch) for arch in (MambaIRArch(), PackedArch())]
    target = MAIN_REGISTRY if registry is None else registry
    added = target.add(*supports, ignore_duplicates=True)
    return [str(support.architecture.id) for support in added]


class MambaIRArch(Architecture[MambaIR]):
    """MambaIR in full precision: official checkpoints, and float files of ours.

    The weights do not tell the range of values inside the network, which is taken as 1.
    """

    def __init__(self) -> None:
        detect = KeyCondition.has_all(
            "conv_first.weight",
            _BLOCK + "self_attention.A_logs",
            _BLOCK + "skip_scale2",
        )
        super().__init__(id="MambaIR", detect=detect)

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[MambaIR]:
        """Build the network that a state dict belongs to.

        Raises:
            CheckpointError: the tensors are those of no MambaIR, or of a quantized one.
        """
        if is_official(state_dict):
            raise CheckpointError(
                "This is a quantized checkpoint of Q-MambaIR, which spandrel cannot run; use "
                "`qmamba restore --model FILE`."
            )
        state = convert_mambair(state_dict).state
        config = infer_mambair_config(state)
        return ImageModelDescriptor(
            MambaIR(config).eval(),
            dict(state),
            architecture=self,
            purpose="SR" if config.scale > 1 else "Restoration",
            tags=_tags(config),
            # The exponentials of the scan leave the range of half precision.
            supports_half=False,
            supports_bfloat16=True,
            scale=config.scale,
            input_channels=config.channels,
            output_channels=config.channels,
            # The scan runs through the whole image, as in spandrel's own transformers.
            tiling=ModelTiling.DISCOURAGED,
        )


class PackedArch(Architecture[MambaIR]):
    """Packed files of ours, which are recognized to say what to do with them.

    Their configuration stands in the metadata of the file, which spandrel does not hand on.
    """

    def __init__(self) -> None:
        super().__init__(
            id="MambaIR-packed",
            name="MambaIR, packed to few bits",
            detect=lambda state: set(state) == _PACKED,
        )

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[MambaIR]:
        """Refuse with a sentence that says where such files run.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError(
            "This is a packed file of qmamba, whose description spandrel does not see; use "
            "`qmamba restore --model FILE`, or give the full-precision weights."
        )


def _tags(config: MambaIRConfig) -> list[str]:
    return [config.task.removeprefix("sr-"), f"{config.dim}dim", f"{sum(config.depths)}blocks"]
