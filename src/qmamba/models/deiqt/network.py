"""DEIQT: a vision transformer and one decoder layer with a panel of learned queries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.models.deiqt.config import PATCH, DEIQTConfig
from qmamba.models.network import RatingNetwork
from qmamba.nn.initialization import linear, module_kwargs

_EPSILON = 1e-6
_LAYER_SCALE = 1e-4
_MLP_RATIO = 4


class DEIQT(RatingNetwork):
    """Patches to tokens, transformer blocks, a decoder whose queries each give a score.

    Written from the description and the key layout of its code; that code has no license and is not
    used. Keys are those of its checkpoints. Fresh weights are drawn from torch's global generator.

    Source: DEIQT (Qin et al., AAAI 2023); the encoder is DeiT-III (Touvron et al., 2022).
    """

    config: DEIQTConfig

    def __init__(self, config: DEIQTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DEIQTConfig()
        dim = config.dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim, **module_kwargs()))
        self.pos_embed = nn.Parameter(torch.empty(1, config.patches, dim, **module_kwargs()))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, PATCH, stride=PATCH)})
        self.blocks = nn.Sequential(*(_Block(dim, config.heads) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(dim, eps=_EPSILON)
        self.head = _Panel(config)

    def forward(self, images: Tensor) -> Tensor:
        """Raw outputs, not on any rating scale.

        Args:
            images: ``(batch, 3, side, side)``, sRGB in [0, 1] normalized by
                :data:`~qmamba.models.IMAGE_MEAN` and :data:`~qmamba.models.IMAGE_STD`.

        Returns:
            ``(batch, 1)``.

        Raises:
            ShapeError: the images have another shape.
        """
        outputs: Tensor = self.head.heads(self.forward_features(images))
        return outputs

    def forward_features(self, images: Tensor) -> Tensor:
        """What the head sees: ``(batch, dim)``, the mean of the decoded queries."""
        side = self.config.side
        if images.dim() != 4 or images.shape[1:] != (3, side, side) or 0 in images.shape:
            raise ShapeError(
                f"A DEIQT takes images of shape (batch, 3, {side}, {side}), got "
                f"{tuple(images.shape)}."
            )
        patches = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        # The class token has no position.
        tokens = torch.cat(
            [self.cls_token.expand(len(images), -1, -1), patches + self.pos_embed], 1
        )
        tokens = self.norm(self.blocks(tokens))
        decoded: Tensor = self.head(tokens[:, :1], tokens[:, 1:])
        # The head is linear, so the mean of its scores is the score of the mean.
        return decoded.mean(1)


class _Block(nn.Module):
    """Attention and MLP, each with a norm before it and a scale per channel after it."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=_EPSILON) for _ in range(2))
        self.attn = _Attention(dim, heads)
        self.mlp = _Mlp(dim)
        self.gamma_1 = nn.Parameter(torch.full((dim,), _LAYER_SCALE, **module_kwargs()))
        self.gamma_2 = nn.Parameter(torch.full((dim,), _LAYER_SCALE, **module_kwargs()))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma_1 * self.attn(self.norm1(x))
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(dim, 3 * dim)
        self.proj = linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = linear(dim, _MLP_RATIO * dim), linear(_MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Panel(nn.Module):
    """The class token with a learned change, once per query, looks at the patches."""

    def __init__(self, config: DEIQTConfig) -> None:
        super().__init__()
        dim = config.dim
        self.bunch_embedding = nn.Parameter(torch.empty(1, config.queries, dim, **module_kwargs()))
        nn.init.trunc_normal_(self.bunch_embedding, std=0.02)
        layer = nn.TransformerDecoderLayer(
            dim,
            config.heads,
            _MLP_RATIO * dim,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.bunch_decoder = nn.ModuleDict({"layers": nn.ModuleList([layer])})
        self.heads = linear(dim, 1, bias=False)

    def forward(self, token: Tensor, patches: Tensor) -> Tensor:
        """``(batch, 1, dim)`` and ``(batch, patches, dim)`` to ``(batch, queries, dim)``."""
        decoder = self.bunch_decoder.get_submodule("layers.0")
        decoded: Tensor = decoder(token + self.bunch_embedding, patches)
        return decoded
