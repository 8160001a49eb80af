"""MambaIRv2 once more, slowly and from its description alone, on the tensors of a state dict.

Nothing here is shared with the package but the state dict: windows, masks and relative positions
are found pixel by pixel, maps are sorted and put back, and the scan is a loop over steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def of(state: State, prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def convolution(state: State, name: str, x: Tensor) -> Tensor:
    """On ``(height, width, channels)``, padded to keep the map."""
    weight = state[f"{name}.weight"]
    groups = x.shape[-1] // weight.shape[1]
    y = F.conv2d(
        x.permute(2, 0, 1)[None],
        weight,
        state[f"{name}.bias"],
        padding=weight.shape[-1] // 2,
        groups=groups,
    )
    return y[0].permute(1, 2, 0)


def attention(state: State, qkv: Tensor, heads: int, window: int, shift: int) -> Tensor:
    """Every pixel looks at those that are in its window, after a shift that goes round the map."""
    height, width, triple = qkv.shape
    dim = triple // 3
    table = state["win_mhsa.relative_position_bias_table"]
    shifted = torch.roll(qkv, (-shift, -shift), (0, 1))

    def region(at: int, side: int) -> int:
        if not shift or at < side - window:
            return 0
        return 1 if at < side - shift else 2

    out = torch.zeros(height, width, dim)
    for top in range(0, height, window):
        for left in range(0, width, window):
            places = [(top + i, left + j) for i in range(window) for j in range(window)]
            tokens = torch.stack([shifted[place] for place in places])
            q, k, v = (part.unflatten(-1, (heads, -1)) for part in tokens.chunk(3, -1))
            bias = torch.empty(heads, len(places), len(places))
            for a, (ai, aj) in enumerate(places):
                for b, (bi, bj) in enumerate(places):
                    row = (ai - bi + window - 1) * (2 * window - 1) + aj - bj + window - 1
                    here = region(ai, height), region(aj, width)
                    there = region(bi, height), region(bj, width)
                    bias[:, a, b] = table[row] - (0.0 if here == there else 100.0)
            scores = torch.einsum("ahc,bhc->hab", q, k) / math.sqrt(dim // heads) + bias
            mixed = torch.einsum("hab,bhc->ahc", scores.softmax(-1), v).flatten(1)
            for token, place in enumerate(places):
                out[place] = mixed[token]
    return torch.roll(out, (shift, shift), (0, 1))


def feed_forward(state: State, x: Tensor) -> Tensor:
    hidden = F.gelu(linear(state, "fc1", x))
    if "sg.norm.weight" in state:
        kept, gate = hidden.chunk(2, -1)
        hidden = kept * convolution(state, "sg.conv", norm(state, "sg.norm", gate))
    else:
        hidden = hidden + F.gelu(convolution(state, "dwconv.depthwise_conv.0", hidden))
    return linear(state, "fc2", hidden)


def attentive_scan(state: State, factor: Tensor, x: Tensor) -> Tensor:
    height, width, dim = x.shape
    pixels = x.reshape(-1, dim)
    scores = linear(state, "route.2", F.gelu(linear(state, "route.0", pixels)))
    classes = scores.argmax(-1)
    prompts = state["embeddingB.weight"] @ factor
    y = convolution(state, "in_proj.0", x)
    y = (y * torch.sigmoid(convolution(state, "CPE.0", y))).reshape(len(pixels), -1)
    order = sorted(range(len(pixels)), key=lambda pixel: int(classes[pixel]))
    u = y[order]

    scan = of(state, "selectiveScan.")
    A, D = -torch.exp(scan["A_logs"]), scan["Ds"]
    states, rank = A.shape[1], scan["dt_projs_weight"].shape[2]
    low, B, C = (u @ scan["x_proj_weight"][0].T).split([rank, states, states], -1)
    dt = F.softplus(low @ scan["dt_projs_weight"][0].T + scan["dt_projs_bias"][0])
    h = torch.zeros(u.shape[1], states)
    result = torch.empty_like(u)
    for t in range(len(u)):
        h = torch.exp(dt[t, :, None] * A) * h + dt[t, :, None] * B[t] * u[t, :, None]
        # The map is sorted and the prompts are not, as in the official code.
        result[t] = h @ (C[t] + prompts[classes[t]]) + D * u[t]
    back = torch.empty_like(result)
    back[order] = result
    return linear(state, "out_proj", norm(state, "out_norm", back)).view(height, width, dim)


def block(state: State, x: Tensor, heads: int, window: int, shift: int) -> Tensor:
    qkv = linear(state, "wqkv", norm(state, "norm1", x))
    y = x + linear(state, "win_mhsa.proj", attention(state, qkv, heads, window, shift))
    y = y + feed_forward(of(state, "convffn1."), norm(state, "norm2", y))
    x = state["scale1"] * x + y
    y = x + attentive_scan(of(state, "assm."), state["embeddingA.weight"], norm(state, "norm3", x))
    y = y + feed_forward(of(state, "convffn2."), norm(state, "norm4", y))
    return state["scale2"] * x + y


def restore(
    state: State, image: Tensor, depths: tuple[int, ...], heads: int, window: int, scale: int
) -> Tensor:
    """A lightweight network on ``(3, height, width)`` in [0, 1]; the most probable classes."""
    height, width = image.shape[1:]
    rows = [i if i < height else 2 * height - 1 - i for i in range(height + -height % window)]
    columns = [j if j < width else 2 * width - 1 - j for j in range(width + -width % window)]
    mean = torch.tensor([0.4488, 0.4371, 0.4040])
    x = image[:, rows][:, :, columns].permute(1, 2, 0) - mean
    shallow = convolution(state, "conv_first", x)
    x = norm(state, "patch_embed.norm", shallow)
    for g, depth in enumerate(depths):
        y = x
        for i in range(depth):
            prefix = f"layers.{g}.residual_group.layers.{i}."
            y = block(of(state, prefix), y, heads, window, window // 2 if i % 2 else 0)
        x = x + convolution(state, f"layers.{g}.conv", y)
    deep = convolution(state, "conv_after_body", norm(state, "norm", x)) + shallow
    larger = convolution(state, "upsample.0", deep).permute(2, 0, 1)
    restored = F.pixel_shuffle(larger, scale) + mean[:, None, None]
    return restored[:, : scale * height, : scale * width]
