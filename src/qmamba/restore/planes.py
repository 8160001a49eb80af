"""A network on the planes of an image: gray or color whatever it was trained on, and alpha."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.errors import ImageError
from qmamba.images import resize_to
from qmamba.restore.ensemble import self_ensemble
from qmamba.restore.margins import Margins
from qmamba.restore.measuring import Measured
from qmamba.restore.measuring.measured import taken

Alpha = Literal["resample", "restore"]
"""What becomes of alpha: resized by bicubic interpolation (kept where the size stays), or restored
by the network as if it were a gray image."""

_NO_MARGINS = Margins()
_NOTHING = Measured()
_LUMA = (0.299, 0.587, 0.114)


class PlaneNetwork:
    """Restores planes ``(channels, height, width)`` with a network of one or three channels.

    Gray goes through a network of colors as three equal channels, whose mean is the result. Of
    colors, a network of gray restores the luma (BT.601, full range, as in a JPEG file); what is
    added to the luma is added to each channel of the enlarged image, so the chroma stays. Colors
    below full transparency are made up from their surroundings first, since nobody has seen them
    and the network would let them bleed into the visible edge.

    Args:
        run: images ``(1, channels, height, width)``, with the noise map behind them where the
            network is given one, on the device to ``(1, channels, scale *
            height, scale * width)``.
        channels: of the network, 1 or 3.
        scale: of the network.
        device: where it runs.
        ensemble: take the mean over the eight flips and turns of the image.
        alpha: what becomes of alpha.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Tensor],
        *,
        channels: int,
        scale: int,
        device: torch.device,
        ensemble: bool = False,
        alpha: Alpha = "resample",
    ) -> None:
        self.channels = channels
        self.scale = scale
        self.device = device
        self.ensemble = ensemble
        self.alpha = alpha
        self._run = run

    def __call__(
        self,
        planes: Tensor,
        with_alpha: bool = False,
        margins: Margins = _NO_MARGINS,
        measured: Measured = _NOTHING,
    ) -> Tensor:
        """Restore an image or a tile of one.

        Args:
            planes: float32 ``(1 or 3 channels, height, width)`` in [0, 1]; one channel more where
                the last one is alpha.
            with_alpha: whether it is.
            margins: mirrored for the network alone.
            measured: what the network is told about it.

        Returns:
            float32 on the CPU in [0, 1], the same channels, sides times the scale.

        Raises:
            ImageError: the network's output is not finite.
        """
        planes = planes.to(self.device)
        if not with_alpha:
            return self._finished(self._colors(planes, margins, measured.noise, measured.share))
        colors, alpha = planes[:-1], planes[-1:]
        restored = self._colors(_filled(colors, alpha), margins, measured.noise, measured.share)
        if self.alpha == "restore":
            enlarged = self._colors(alpha, margins, measured.alpha_noise, measured.share)
        else:
            enlarged = self._resized(alpha)
        return self._finished(torch.cat([restored, enlarged]))

    def notes(self, channels: int, with_alpha: bool) -> list[str]:
        """What is to be said about planes that the network was not made for."""
        notes = []
        kept = "kept" if self.scale == 1 else "enlarged by bicubic interpolation"
        if channels == 3 and self.channels == 1:
            notes.append(f"luma restored, chroma {kept}")
        if with_alpha:
            notes.append("alpha restored" if self.alpha == "restore" else f"alpha {kept}")
        return notes

    def _finished(self, planes: Tensor) -> Tensor:
        if not bool(torch.isfinite(planes).all()):
            raise ImageError("the network's output for this image is not finite")
        return planes.clamp_(0, 1).cpu()

    def _colors(
        self, colors: Tensor, margins: Margins, noise: Tensor | None, share: float
    ) -> Tensor:
        if colors.shape[0] == self.channels:
            return self._network(colors, margins, noise, share)
        if self.channels == 3:
            equal = colors.expand(3, -1, -1)
            return self._network(equal, margins, noise, share).mean(0, keepdim=True)
        enlarged = self._resized(colors)
        luma = _luma(colors)
        return enlarged + (self._network(luma, margins, noise, share) - _luma(enlarged))

    def _network(
        self, image: Tensor, margins: Margins, noise: Tensor | None, share: float
    ) -> Tensor:
        noise = None if noise is None else noise.to(image)
        given = image if noise is None else torch.cat([image, noise])
        images = margins.extend(given)[None]
        if self.ensemble:
            restored = self_ensemble(self._run, images)[0]
        else:
            restored = self._run(images)[0].float()
        restored = margins.cut(restored, self.scale)
        return taken(image, restored, noise, share) if self.scale == 1 else restored

    def _resized(self, planes: Tensor) -> Tensor:
        height, width = planes.shape[1:]
        return resize_to(planes, (self.scale * height, self.scale * width))


def _luma(colors: Tensor) -> Tensor:
    weights = colors.new_tensor(_LUMA).view(3, 1, 1)
    return (colors * weights).sum(0, keepdim=True)


def _filled(colors: Tensor, alpha: Tensor) -> Tensor:
    """Colors with those below full transparency replaced by the mean of visible ones around."""
    visible = (alpha > 0).to(colors)
    if bool(visible.all()) or not bool(visible.any()):
        return colors
    return torch.where(visible > 0, colors, _spread(colors * visible, visible))


def _spread(weighted: Tensor, weight: Tensor) -> Tensor:
    """Weighted means of ever larger squares, of the smallest square that has any weight."""
    known = weighted / weight.clamp(min=1e-6)
    if max(weight.shape[1:]) == 1:
        return known
    odd = (0, weight.shape[2] % 2, 0, weight.shape[1] % 2)
    half, half_weight = (F.avg_pool2d(F.pad(part, odd), 2) for part in (weighted, weight))
    around = _spread(half, half_weight).repeat_interleave(2, 1).repeat_interleave(2, 2)
    return torch.where(weight > 0, known, around[:, : weight.shape[1], : weight.shape[2]])
