"""LoDa: local features of a ResNet enter every block of a frozen vision transformer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.models.loda.config import STAGES, LoDaConfig
from qmamba.models.network import RatingNetwork
from qmamba.models.timm.config import BACKBONES
from qmamba.models.timm.library import timm_library
from qmamba.nn.initialization import module_kwargs

_GRID = 7
_DROPOUT = 0.1
_MOMENTUM = 0.99


class LoDa(RatingNetwork):
    """A cosine between the class token and a learned direction, brought to the learned scale.

    Only ``learner`` has gradients. The vision transformer and the ResNet-50 are frozen, but as in
    the official training the ResNet stays in training mode while the network is trained, so the
    running statistics of its batch norms follow the training images. They are buffers of the
    network and are saved with it; in evaluation they rest.

    A cosine lies in [-1, 1]. ``output_scale`` and ``output_shift`` map it to what is learned (the
    standardized scores): the least-squares line through what :meth:`observe` has seen, the recent
    batches more than the older ones. The official code fits a curve to the test scores instead.

    Needs timm. State-dict keys: ``vit.*`` and ``cnn.*`` as in timm, ``learner.*`` as in official
    checkpoints.

    Raises:
        QMambaError: timm is not installed.

    Source: LoDa (Xu et al., CVPR 2024) and its code (Apache-2.0).
    """

    config: LoDaConfig
    output_scale: Tensor
    output_shift: Tensor
    moments: Tensor

    def __init__(self, config: LoDaConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LoDaConfig()
        timm = timm_library()
        self.vit: Any = timm.create_model(
            BACKBONES[config.transformer].timm_name, pretrained=False, num_classes=0
        )
        self.cnn: Any = timm.create_model(
            "resnet50", pretrained=False, features_only=True, out_indices=(1, 2, 3, 4)
        )
        self.vit.requires_grad_(False)
        self.cnn.requires_grad_(False)
        self.learner = _Learner(config)
        self.register_buffer("output_scale", torch.ones((), **module_kwargs()))
        self.register_buffer("output_shift", torch.zeros((), **module_kwargs()))
        # Means of cosine, target, cosine squared and their product, and the weight of all batches.
        self.register_buffer("moments", torch.zeros(5, **module_kwargs()))

    def train(self, mode: bool = True) -> LoDa:
        super().train(mode)
        # Dropout of a frozen part would only add noise; timm's default is none.
        self.vit.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Raw outputs ``(batch, 1)`` on the scale that was learned.

        Args:
            images: ``(batch, 3, 224, 224)``, sRGB in [0, 1] normalized by
                :data:`~qmamba.models.IMAGE_MEAN` and :data:`~qmamba.models.IMAGE_STD`.

        Raises:
            ShapeError: the images have another shape.
        """
        # A copy, because the gradient needs the slope that `observe` changes before it is taken.
        return self.cosine(images) * self.output_scale.clone() + self.output_shift

    def cosine(self, images: Tensor) -> Tensor:
        """The output before the map, ``(batch, 1)`` in [-1, 1]."""
        features = F.dropout(self.forward_features(images), _DROPOUT, self.training)
        direction = self.learner.head.weight
        return F.normalize(features, dim=1) @ F.normalize(direction, dim=0)

    def forward_features(self, images: Tensor) -> Tensor:
        """What the head sees: ``(batch, dim)``, the class token after the transformer's norm."""
        if images.dim() != 4 or images.shape[1:] != (3, 224, 224) or 0 in images.shape:
            raise ShapeError(
                f"A LoDa takes images of shape (batch, 3, 224, 224), got {tuple(images.shape)}."
            )
        with torch.no_grad():
            stages = self.cnn(images)
        local = self.learner.local_tokens(stages)
        tokens = self.vit.norm_pre(
            self.vit.patch_drop(self.vit._pos_embed(self.vit.patch_embed(images)))
        )
        for index, block in enumerate(self.vit.blocks):
            tokens = block(self.learner.inject(index, tokens, local))
        normalized: Tensor = self.vit.norm(tokens)
        return normalized[:, 0]

    @torch.no_grad()
    def observe(self, outputs: Tensor, targets: Tensor) -> None:
        """Bring the map up to date with a training batch.

        Args:
            outputs: of :meth:`forward` in this step, ``(batch,)``.
            targets: what is learned, ``(batch,)``.
        """
        cosine = (outputs.detach().float() - self.output_shift) / self.output_scale
        target = targets.float()
        one = torch.ones((), dtype=torch.float32, device=cosine.device)
        new = torch.stack([each.mean() for each in (cosine, target, cosine**2, cosine * target)])
        self.moments.lerp_(torch.cat([new, one[None]]), 1 - _MOMENTUM)
        x, y, xx, xy = self.moments[:4] / self.moments[4]
        variance, covariance = xx - x * x, xy - x * y
        # Early on the cosine may not follow the scores at all, and a map that turns them round or
        # has no slope would hide the gradient.
        if variance > 1e-8 and covariance > 1e-8:
            self.output_scale.copy_(covariance / variance)
            self.output_shift.copy_(y - self.output_scale * x)


class _Learner(nn.Module):
    """The part that learns."""

    def __init__(self, config: LoDaConfig) -> None:
        super().__init__()
        dim, width, depth = config.dim, config.width, config.depth
        self.conv = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(stage, width, 1),
                nn.GELU(),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.AdaptiveAvgPool2d(_GRID),
            )
            for stage in STAGES
        )
        self.down_proj = nn.ModuleList(_Mlp(dim, width, width) for _ in range(depth))
        self.cross_attn = nn.ModuleList(_CrossAttention(width, config.heads) for _ in range(depth))
        self.up_proj = nn.ModuleList(_Mlp(width, dim, dim) for _ in range(depth))
        self.scale_factor = nn.Parameter(torch.randn(depth, dim, **module_kwargs()) * 0.02)
        self.head = _Direction(dim)

    def local_tokens(self, stages: list[Tensor]) -> Tensor:
        """Maps of the four stages to ``(batch, 196, width)``."""
        tokens = [
            convolve(stage).flatten(2) for convolve, stage in zip(self.conv, stages, strict=True)
        ]
        return torch.cat(tokens, dim=2).transpose(1, 2)

    def inject(self, index: int, tokens: Tensor, local: Tensor) -> Tensor:
        """Add what the local tokens say to those that enter a block of the transformer."""
        narrow = self.down_proj[index](tokens)
        narrow = narrow + self.cross_attn[index](narrow, local)
        added: Tensor = self.up_proj[index](narrow) * self.scale_factor[index]
        return tokens + added


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int, out_dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, local: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(local).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class _Direction(nn.Module):
    """What the class token is compared with."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim, 1, **module_kwargs()) * 0.02)
