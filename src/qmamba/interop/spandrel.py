"""MambaIR and MambaIRv2 for spandrel, which loads the restoration models of ComfyUI and others.

Needs the extra ``spandrel``. Call :func:`register` once; from then on every
``spandrel.ModelLoader`` opens their official checkpoints and full-precision files of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qmamba.checkpoints.official import is_official
from qmamba.errors import CheckpointError
from qmamba.extras import declare_torchvision_operators, extra
from qmamba.models.architecture import Architecture as ModelFamily
from qmamba.models.mambair.architecture import MAMBAIR
from qmamba.models.mambair.config import RestorationConfig
from qmamba.models.mambairv2.architecture import MAMBAIRV2
from qmamba.models.network import Network

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

_PACKED = {"codes", "numbers", "rest"}


def register(registry: ArchRegistry | None = None) -> list[str]:
    """Add MambaIR and MambaIRv2 to a registry of spandrel; a second call adds nothing.

    An architecture of the same id that spandrel has itself stays.

    Args:
        registry: ``None`` is the main one, which every ``ModelLoader()`` uses.

    Returns:
        Identifiers of the architectures that were added.

    Example:
        >>> from qmamba.interop.spandrel import register
        >>> from spandrel import ModelLoader
        >>> register()
        ['MambaIR', 'MambaIRv2', 'MambaIR-packed']
        >>> ModelLoader().load_from_file("mambair_x2.pth").scale  # doctest: +SKIP
        2
    """
    ours = (MAMBAIR_ARCH, MAMBAIRV2_ARCH, PackedArch())
    supports = [ArchSupport.from_architecture(arch) for arch in ours]
    target = MAIN_REGISTRY if registry is None else registry
    added = target.add(*supports, ignore_duplicates=True)
    return [str(support.architecture.id) for support in added]


class FamilyArch(Architecture[Network]):
    """A family of our restoration networks in full precision.

    Official checkpoints, and float files of ours. The weights do not tell the range of values
    inside the network, which is taken as 1.

    Args:
        name: identifier in spandrel.
        family: our record of the family.
        keys: tensors that every state dict of the family has, and of no other.
        bfloat16: whether it may compute in bfloat16.
    """

    def __init__(
        self, name: str, family: ModelFamily, keys: Sequence[str], *, bfloat16: bool
    ) -> None:
        super().__init__(id=name, detect=KeyCondition.has_all(*keys))
        self._family = family
        self._bfloat16 = bfloat16

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[Network]:
        """Build the network that a state dict belongs to.

        Raises:
            CheckpointError: the tensors are those of no such network, or of a quantized one.
        """
        if is_official(state_dict):
            raise CheckpointError(
                "This is a quantized checkpoint of Q-MambaIR, which spandrel cannot run; use "
                "`qmamba restore --model FILE`."
            )
        state = self._family.convert(state_dict).state
        config = self._family.infer(state)
        assert isinstance(config, RestorationConfig)
        if config.condition_channels:
            raise CheckpointError(
                "This network needs a noise map beside the image, which spandrel cannot give it; "
                "use `qmamba restore --model FILE`."
            )
        return ImageModelDescriptor(
            self._family.build(config).eval(),
            dict(state),
            architecture=self,
            purpose="SR" if config.scale > 1 else "Restoration",
            tags=_tags(config),
            # The exponentials of the scan leave the range of half precision.
            supports_half=False,
            supports_bfloat16=self._bfloat16,
            scale=config.scale,
            input_channels=config.channels,
            output_channels=config.channels,
            # The scan runs through the whole image, as in spandrel's own transformers.
            tiling=ModelTiling.DISCOURAGED,
        )


MAMBAIR_ARCH = FamilyArch(
    "MambaIR",
    MAMBAIR,
    (
        "conv_first.weight",
        "layers.0.residual_group.blocks.0.self_attention.A_logs",
        "layers.0.residual_group.blocks.0.skip_scale2",
    ),
    bfloat16=True,
)
MAMBAIRV2_ARCH = FamilyArch(
    "MambaIRv2",
    MAMBAIRV2,
    ("conv_first.weight", "layers.0.residual_group.layers.0.assm.embeddingB.weight"),
    # Rounding moves pixels to other classes, and with them their way through the scan.
    bfloat16=False,
)


class PackedArch(Architecture[Network]):
    """Packed files of ours, which are recognized to say what to do with them.

    Their configuration stands in the metadata of the file, which spandrel does not hand on.
    """

    def __init__(self) -> None:
        super().__init__(
            id="MambaIR-packed",
            name="MambaIR, packed to few bits",
            detect=lambda state: set(state) == _PACKED,
        )

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[Network]:
        """Refuse with a sentence that says where such files run.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError(
            "This is a packed file of qmamba, whose description spandrel does not see; use "
            "`qmamba restore --model FILE`, or give the full-precision weights."
        )


def _tags(config: RestorationConfig) -> list[str]:
    return [config.task.removeprefix("sr-"), f"{config.dim}dim", f"{sum(config.depths)}blocks"]
