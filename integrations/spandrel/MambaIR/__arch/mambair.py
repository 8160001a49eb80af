"""
MambaIR in plain PyTorch, without a compiled scan.

Paper: "MambaIR: A Simple Baseline for Image Restoration with State-Space Model" (ECCV 2024).
The names and shapes of all parameters are those of the official checkpoints.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from spandrel.util import store_hyperparameters

RGB_MEAN = (0.4488, 0.4371, 0.4040)

# States of one scan that are held at a time, in numbers; bounds memory whatever the image's size.
BLOCK_NUMBERS = 1 << 24


def linear_recurrence(decay: Tensor, value: Tensor) -> Tensor:
    """
    All ``h[t] = decay[t] * h[t-1] + value[t]`` along the first axis, starting from zero.

    The steps are cut into about sqrt(steps) chunks that advance together: once to find what each
    chunk adds to its last state, and once more from the states that the chunks before it leave.
    Only products of decays in [0, 1] occur, so nothing overflows.
    """
    steps = value.shape[0]
    size = max(1, math.isqrt(steps))
    chunks = -(-steps // size)
    missing = chunks * size - steps
    if missing:
        decay = torch.cat([decay, decay.new_ones(missing, *decay.shape[1:])])
        value = torch.cat([value, value.new_zeros(missing, *value.shape[1:])])
    decay = rearrange(decay, "(c s) ... -> s c ...", c=chunks)
    value = rearrange(value, "(c s) ... -> s c ...", c=chunks)

    state = torch.zeros_like(value[0])
    product = torch.ones_like(state)
    for step in range(size):
        state = decay[step] * state + value[step]
        product = product * decay[step]

    carry = torch.zeros_like(state[0])
    carries = []
    for chunk in range(chunks):
        carries.append(carry)
        carry = product[chunk] * carry + state[chunk]

    state = torch.stack(carries)
    states = []
    for step in range(size):
        state = decay[step] * state + value[step]
        states.append(state)
    return rearrange(torch.stack(states), "s c ... -> (c s) ...")[:steps]


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """
    The selective scan of one route, in float32.

    u and delta are (steps, batch, channels), A is (channels, states), B and C are
    (steps, batch, states), D is (channels,); the result is (steps, batch, channels).
    """
    steps, batch, channels = u.shape
    block = max(64, BLOCK_NUMBERS // (batch * channels * A.shape[1]))
    carry = u.new_zeros(batch, channels, A.shape[1])
    outputs = []
    for start in range(0, steps, block):
        part = slice(start, min(steps, start + block))
        decay = torch.exp(delta[part].unsqueeze(-1) * A)
        value = (delta[part] * u[part]).unsqueeze(-1) * B[part].unsqueeze(2)
        # the state that the block before has left enters with the first step
        value = torch.cat([(value[0] + decay[0] * carry).unsqueeze(0), value[1:]])
        states = linear_recurrence(decay, value)
        carry = states[-1]
        outputs.append((states * C[part].unsqueeze(2)).sum(-1))
    return torch.cat(outputs) + D * u


class SS2D(nn.Module):
    def __init__(self, dim: int, inner: int, state_size: int) -> None:
        super().__init__()
        rank = math.ceil(dim / 16)
        self.rank, self.state_size = rank, state_size
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.x_proj_weight = nn.Parameter(torch.zeros(4, rank + 2 * state_size, inner))
        self.dt_projs_weight = nn.Parameter(torch.zeros(4, inner, rank))
        self.dt_projs_bias = nn.Parameter(torch.zeros(4, inner))
        self.A_logs = nn.Parameter(torch.zeros(4 * inner, state_size))
        self.Ds = nn.Parameter(torch.ones(4 * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x, gate = self.in_proj(x).chunk(2, dim=-1)
        x = self.conv2d(x.permute(0, 3, 1, 2))
        y = self.scan(F.silu(x))
        y = self.out_norm(rearrange(y, "b (h w) c -> b h w c", h=height, w=width).to(gate.dtype))
        return self.out_proj(y * F.silu(gate))

    def scan(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the sum of four routes, (batch, pixels, channels)."""
        batch, channels, height, width = x.shape
        by_row = rearrange(x, "b c h w -> (h w) b c")
        by_column = rearrange(x, "b c h w -> (w h) b c")
        A = -torch.exp(self.A_logs.float()).view(4, channels, -1)
        D = self.Ds.float().view(4, channels)
        total = torch.zeros(height * width, batch, channels, device=x.device)
        for route in range(4):
            u = by_column if route % 2 else by_row
            low, B, C = F.linear(u, self.x_proj_weight[route]).split(
                [self.rank, self.state_size, self.state_size], dim=-1
            )
            delta = F.softplus(
                F.linear(low, self.dt_projs_weight[route]).float()
                + self.dt_projs_bias[route].float()
            )
            arguments = [u.float(), delta, B.float(), C.float()]
            if route >= 2:
                arguments = [argument.flip(0) for argument in arguments]
            u, delta, B, C = arguments
            y = selective_scan(u, delta, A[route], B, C, D[route])
            if route >= 2:
                y = y.flip(0)
            if route % 2:
                y = rearrange(y, "(w h) b c -> (h w) b c", h=height, w=width)
            total += y
        return total.transpose(0, 1)


class ChannelAttention(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(dim, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, dim, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)


class CAB(nn.Module):
    def __init__(self, dim: int, hidden: int, attention_dim: int, kind: str) -> None:
        super().__init__()
        layers: list[nn.Module]
        if kind == "convolution":
            layers = [
                nn.Conv2d(dim, hidden, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(hidden, dim, 3, padding=1),
            ]
        elif kind == "separable":
            layers = [
                nn.Conv2d(dim, hidden, 1),
                nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
                nn.GELU(),
                nn.Conv2d(hidden, dim, 1),
                nn.Conv2d(dim, dim, 3, padding=2, dilation=2, groups=dim),
            ]
        else:
            layers = [nn.Conv2d(dim, dim, 3, padding=1, groups=dim)]
        self.cab = nn.Sequential(*layers, ChannelAttention(dim, attention_dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.cab(x)


class Block(nn.Module):
    def __init__(
        self, dim: int, inner: int, state_size: int, cab: str, cab_dim: int, attention_dim: int
    ) -> None:
        super().__init__()
        self.skip_scale = nn.Parameter(torch.ones(dim))
        self.skip_scale2 = nn.Parameter(torch.ones(dim))
        self.ln_1 = nn.LayerNorm(dim)
        self.self_attention = SS2D(dim, inner, state_size)
        self.conv_blk = CAB(dim, cab_dim, attention_dim, cab)
        self.ln_2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.skip_scale + self.self_attention(self.ln_1(x))
        y = self.conv_blk(self.ln_2(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x * self.skip_scale2 + y


class ResidualGroup(nn.Module):
    def __init__(self, dim: int, blocks: list[Block], three_convolutions: bool) -> None:
        super().__init__()
        self.residual_group = nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks)))
        self.conv = group_convolution(dim, three_convolutions)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.residual_group(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + y


def group_convolution(dim: int, three_convolutions: bool) -> nn.Module:
    if not three_convolutions:
        return nn.Conv2d(dim, dim, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(dim, dim // 4, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(dim // 4, dim // 4, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(dim // 4, dim, 3, padding=1),
    )


@store_hyperparameters()
class MambaIR(nn.Module):
    hyperparameters = {}

    def __init__(
        self,
        *,
        channels: int = 3,
        dim: int = 60,
        depths: tuple[int, ...] = (6, 6, 6, 6),
        state_size: int = 16,
        inner: int = 72,
        cab: str = "separable",
        cab_dim: int = 30,
        attention_dim: int = 2,
        three_convolutions: bool = False,
        upscale: int = 1,
        upsampler: str = "",
    ) -> None:
        super().__init__()
        self.channels, self.upsampler = channels, upsampler
        self.conv_first = nn.Conv2d(channels, dim, 3, padding=1)
        self.patch_embed = nn.Sequential(OrderedDict(norm=nn.LayerNorm(dim)))
        groups = [
            ResidualGroup(
                dim,
                [Block(dim, inner, state_size, cab, cab_dim, attention_dim) for _ in range(depth)],
                three_convolutions,
            )
            for depth in depths
        ]
        self.layers = nn.Sequential(*groups)
        self.norm = nn.LayerNorm(dim)
        self.conv_after_body = group_convolution(dim, three_convolutions)

        features = 64
        if upsampler == "pixelshuffledirect":
            self.upsample = nn.Sequential(
                nn.Conv2d(dim, upscale**2 * channels, 3, padding=1), nn.PixelShuffle(upscale)
            )
            return
        if upsampler:
            self.conv_before_upsample = nn.Sequential(
                nn.Conv2d(dim, features, 3, padding=1), nn.LeakyReLU(0.01)
            )
        if upsampler == "pixelshuffle":
            factors = [3] if upscale == 3 else [2] * int(math.log2(upscale))
            stages: list[nn.Module] = []
            for factor in factors:
                stages += [
                    nn.Conv2d(features, factor**2 * features, 3, padding=1),
                    nn.PixelShuffle(factor),
                ]
            self.upsample = nn.Sequential(*stages)
        elif upsampler == "nearest+conv":
            self.conv_up1 = nn.Conv2d(features, features, 3, padding=1)
            self.conv_up2 = nn.Conv2d(features, features, 3, padding=1)
            self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features if upsampler else dim, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        values = RGB_MEAN if self.channels == 3 else (0.0,)
        mean = torch.tensor(values, dtype=x.dtype, device=x.device).view(1, -1, 1, 1)
        x = x - mean
        shallow = self.conv_first(x)
        deep = self.norm(self.layers(self.patch_embed(shallow.permute(0, 2, 3, 1))))
        features = self.conv_after_body(deep.permute(0, 3, 1, 2)) + shallow
        return self.reconstruct(x, features) + mean

    def reconstruct(self, x: Tensor, features: Tensor) -> Tensor:
        if self.upsampler == "pixelshuffledirect":
            return self.upsample(features)
        if self.upsampler == "pixelshuffle":
            return self.conv_last(self.upsample(self.conv_before_upsample(features)))
        if self.upsampler == "nearest+conv":
            features = self.conv_before_upsample(features)
            for convolution in (self.conv_up1, self.conv_up2):
                larger = F.interpolate(features, scale_factor=2, mode="nearest")
                features = F.leaky_relu(convolution(larger), 0.2)
            return self.conv_last(F.leaky_relu(self.conv_hr(features), 0.2))
        return x + self.conv_last(features)
