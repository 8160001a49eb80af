"""The attentive state-space layer of MambaIRv2: a scan that goes from class to class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.nn.initialization import linear
from qmamba.nn.layers import ChannelLastConv2d, LayerNorm
from qmamba.nn.ss2d import SelectiveScan
from qmamba.ops import class_route, step_of_pixel

ROUTINGS = ("sampled", "argmax")
"""How :class:`AttentiveScan` chooses the class of a pixel outside training."""

# Classes are chosen for so many pixels at once, which bounds the memory of their probabilities.
_PIXELS_AT_ONCE = 4096


class AttentiveScan(nn.Module):
    """Scan once over a map, class by class.

    A router puts every pixel into one of a few classes. One route visits the pixels class by class,
    in raster order in each, and what the state is read by (C of the scan) is moved by a learned
    prompt. The prompts are low-rank: one factor belongs to the layer and one is given.

    The prompt of step t of the route is that of the class of pixel t in raster order, not of the
    pixel that is visited. The official code does so (it sorts the map and not the prompts), and the
    published weights were trained with it.

    In training the class is drawn with the probabilities of the router (Gumbel-softmax, from
    torch's global generator) and gradients pass through the probabilities. In evaluation the
    official code draws as well, so that no two runs agree. Here ``sampled`` draws from a fixed
    sequence of numbers, the same for every image, batch, device and run; ``argmax`` takes the most
    probable class.

    Args:
        dim: channels.
        state_size: states per channel.
        expansion: inner channels as a multiple of ``dim``.
        classes: how many there are.
        rank: of the prompts.
        routing: one of :data:`ROUTINGS`.
        seed: of the fixed sequence.

    Source: MambaIRv2 (Guo et al., CVPR 2025), attentive state-space equation and semantic guided
    neighboring; ``ASSM`` of its code, whose names the parameters have.
    """

    def __init__(
        self,
        dim: int,
        *,
        state_size: int,
        expansion: float,
        classes: int,
        rank: int,
        routing: str = "sampled",
        seed: int = 0,
    ) -> None:
        super().__init__()
        inner = int(expansion * dim)
        self.routing, self.seed = routing, seed
        self.selectiveScan = SelectiveScan(inner, state_size=state_size)
        self.out_norm = LayerNorm(inner)
        self.out_proj = linear(inner, dim)
        self.in_proj = nn.Sequential(ChannelLastConv2d(dim, inner, 1))
        self.CPE = nn.Sequential(ChannelLastConv2d(inner, inner, 3, padding=1, groups=inner))
        self.embeddingB = nn.Embedding(classes, rank)
        nn.init.uniform_(self.embeddingB.weight, -1 / classes, 1 / classes)
        self.route = nn.Sequential(
            linear(dim, dim // 3), nn.GELU(), linear(dim // 3, classes), nn.LogSoftmax(dim=-1)
        )

    def forward(self, x: Tensor, factor: Tensor) -> Tensor:
        """Scan a map.

        Args:
            x: ``(batch, height, width, dim)``.
            factor: the other factor of the prompts, ``(rank, states)``.

        Returns:
            ``(batch, height, width, dim)``.
        """
        height, width = x.shape[1:3]
        classes, prompts = self.prompts(x.flatten(1, 2), factor)
        route = class_route(classes)
        y = self.in_proj(x)
        y = y * torch.sigmoid(self.CPE(y))
        prompts = along_route(prompts, route)
        scanned = self.selectiveScan.scan_along(y.flatten(1, 2), route, prompts=prompts[:, :, None])
        return self.out_proj(self.out_norm(scanned)).unflatten(1, (height, width))

    def prompts(self, pixels: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """The class of each pixel, and the prompt of each class.

        Args:
            pixels: ``(batch, pixels, dim)``.
            factor: ``(rank, states)``.

        Returns:
            int64 ``(batch, pixels)`` and ``(batch, pixels, states)``.
        """
        table = self.embeddingB.weight @ factor
        if self.training:
            policy = F.gumbel_softmax(self.route(pixels), hard=True, dim=-1)
            return policy.detach().argmax(-1), policy @ table.to(policy.dtype)
        classes = self.classes(pixels)
        return classes, table[classes]

    @torch.no_grad()
    def classes(self, pixels: Tensor) -> Tensor:
        """The class of each pixel in evaluation; from ``(batch, pixels, dim)``."""
        return chosen_classes(self.route, pixels, self.routing, self.seed)

    def extra_repr(self) -> str:
        return f"routing={self.routing!r}, seed={self.seed}"


def chosen_classes(router: nn.Module, pixels: Tensor, routing: str, seed: int) -> Tensor:
    """The class of each pixel.

    Args:
        router: ``(..., dim)`` to the logarithms of the probabilities ``(..., classes)``.
        pixels: ``(batch, pixels, dim)``.
        routing: one of :data:`ROUTINGS`.
        seed: of the fixed sequence of ``sampled``.

    Returns:
        int64 ``(batch, pixels)``.
    """
    chosen = []
    for first in range(0, pixels.shape[1], _PIXELS_AT_ONCE):
        part = pixels[:, first : first + _PIXELS_AT_ONCE]
        scores: Tensor = router(part).float()
        if routing == "sampled":
            count, classes = scores.shape[1:]
            scores = scores + gumbel_noise(first, count, classes, seed, pixels.device)
        chosen.append(scores.argmax(-1))
    return torch.cat(chosen, dim=1)


def along_route(prompts: Tensor, route: Tensor) -> Tensor:
    """Give to the pixel of step t of a route the prompt of pixel t.

    Args:
        prompts: ``(batch, pixels, states)`` in raster order.
        route: int32 ``(batch, 1, pixels)``.

    Returns:
        ``(batch, pixels, states)``, for each pixel in raster order.
    """
    step = step_of_pixel(route, prompts.shape[1])[:, 0]
    return prompts.gather(1, step[..., None].expand_as(prompts))


def gumbel_noise(
    first: int, pixels: int, classes: int, seed: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Standard Gumbel numbers, float32 ``(pixels, classes)``, that only the arguments decide.

    They come from a hash of the position and the seed, so they are the same on every device, for
    every pixel whatever the size of the batch or tile in front of it, and in every run.

    Args:
        first: index of the first pixel.
        pixels: how many pixels.
        classes: how many numbers for each.
        seed: another seed gives other numbers.
        device: where they are made.
    """
    count = pixels * classes
    begin = first * classes
    bits = torch.arange(begin, begin + count, dtype=torch.int64, device=device)
    # Multiplication modulo 2^32 between shifts spreads every bit over all others.
    bits.add_((seed * 0x9E3779B9 + 0x7F4A7C15) & _MASK).bitwise_and_(_MASK)
    for shift in (16, 15, 16):
        bits.bitwise_xor_(bits >> shift).mul_(0x7FEB352D).bitwise_and_(_MASK)
    bits.bitwise_xor_(bits >> 15)
    # The upper 23 bits and a half: a float32 that is neither 0 nor 1.
    uniform = (bits >> 9).float().add_(0.5).mul_(2.0**-23)
    return uniform.log_().neg_().log_().neg_().view(pixels, classes)


_MASK = 2**32 - 1
