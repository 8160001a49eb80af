"""MambaIRv2: restoration with window attention and a scan that goes from class to class."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from qmamba.models.mambair.network import MambaIR
from qmamba.models.mambairv2.config import MambaIRv2Config
from qmamba.nn import AttentiveBlock, AttentiveScan, ResidualGroup, WindowAttention


class MambaIRv2(MambaIR):
    """Image to restored image, as :class:`~qmamba.models.MambaIR` with other residual groups.

    Every second block shifts its windows by half their side. Images are continued by their mirror
    image to multiples of the window, and the result is cut to size.

    State-dict keys are those of the official checkpoints. Fresh weights are drawn from torch's
    global generator, so call ``torch.manual_seed`` first where they must repeat.

    Source: MambaIRv2 paper (Guo et al., CVPR 2025) and its official code.
    """

    config: MambaIRv2Config

    def __init__(self, config: MambaIRv2Config | None = None) -> None:
        super().__init__(config or MambaIRv2Config())

    @property
    def multiple(self) -> int:
        return self.config.window

    def _groups(self) -> Iterator[ResidualGroup]:
        config, seeds = self.config, count(self.config.routing_seed)
        for depth in config.depths:
            blocks = [_block(config, index, next(seeds)) for index in range(depth)]
            yield ResidualGroup(
                config.dim, blocks, convolution=config.group_convolution, name="layers"
            )


def _block(config: MambaIRv2Config, index: int, seed: int) -> AttentiveBlock:
    shift = config.window // 2 if index % 2 else 0
    return AttentiveBlock(
        config.dim,
        WindowAttention(config.dim, heads=config.heads, window=config.window, shift=shift),
        AttentiveScan(
            config.dim,
            state_size=config.state_size,
            expansion=config.expansion,
            classes=config.classes,
            rank=config.prompt_rank,
            routing=config.routing,
            seed=seed,
        ),
        feed_forward_kind=config.feed_forward,
        hidden=config.inner_dim,
    )
