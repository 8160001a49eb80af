"""StylePrompt and the two prompts that it is compared with.

Each follows a stage of the backbone and takes and returns that stage's map, ``(batch, height,
width, channels)``. At the start all of them return exactly what they are given.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.nn import ChannelLastConv2d
from qmamba.nn.initialization import linear, module_kwargs


class PromptMixture(nn.Module):
    """One prompt for a map: learned components, weighed by what the map looks like on average.

    Args:
        channels: channels of the map.
        components: number of components.
        width: channels of a component.
        size: height and width of a component.

    Source: QMamba paper, equation 1; the prompt block of PromptIR.
    """

    def __init__(
        self, channels: int, components: int, width: int, size: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__()
        self.components = nn.Parameter(torch.empty(components, *size, width, **module_kwargs()))
        nn.init.normal_(self.components, std=0.02)
        self.predictor = linear(channels, components)

    def weights(self, x: Tensor) -> Tensor:
        """``(batch, height, width, channels)`` to weights ``(batch, components)`` of sum 1."""
        return torch.softmax(self.predictor(x.mean((1, 2))), -1)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, height, width, channels)`` to ``(batch, *size, width)``."""
        weights = self.weights(x)
        components = self.components.to(weights.dtype)
        return (weights @ components.flatten(1)).unflatten(1, self.components.shape[1:])


class StylePrompt(nn.Module):
    """Scale and shift of every channel, made from a prompt: ``x * (1 + gamma) + beta``.

    ``gamma`` and ``beta`` are linear maps of the convolved prompt. They have one value per channel
    where the prompt is 1 x 1; larger prompts are resized to the map and give maps. On a prompt of
    1 x 1 only the middle of the 3 x 3 kernel meets anything but padding.

    Args:
        channels: channels of the map.
        components: number of prompt components.
        width: channels of the prompt.
        size: height and width of the prompt.
        convolution_bias: give the convolution a bias.

    Source: QMamba paper, equations 1 to 4. The paper gives no code; kernel size, prompt width and
    the places of the biases are those that reproduce its parameter counts.
    """

    def __init__(
        self,
        channels: int,
        components: int = 6,
        width: int = 256,
        size: tuple[int, int] = (1, 1),
        *,
        convolution_bias: bool = True,
    ) -> None:
        super().__init__()
        self.prompt = PromptMixture(channels, components, width, size)
        self.convolution = ChannelLastConv2d(width, width, 3, padding=1, bias=convolution_bias)
        self.gamma, self.beta = _zero_linear(width, channels), _zero_linear(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, height, width, channels)`` to the same shape."""
        prompt = self.prompt(x)
        if prompt.shape[1:3] != (1, 1):
            prompt = _resized(prompt, x.shape[1], x.shape[2])
        prompt = self.convolution(prompt)
        return x * (1 + self.gamma(prompt)) + self.beta(prompt)


class ConvolutionPrompt(nn.Module):
    """The map plus a 3 x 3 convolution, without bias, of the map and the prompt side by side.

    The paper convolves the two and keeps the result. With the map added and the kernel zero at the
    start the functions that can be learned are the same, and the start is the identity.

    Args:
        channels: channels of the map.
        components: number of prompt components.
        width: channels of the prompt.

    Source: ``Conv_Prompt`` of QMamba's table 8, by its parameter count.
    """

    def __init__(self, channels: int, components: int = 6, width: int = 256) -> None:
        super().__init__()
        self.prompt = PromptMixture(channels, components, width)
        self.convolution = ChannelLastConv2d(channels + width, channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.convolution.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, height, width, channels)`` to the same shape."""
        prompt = self.prompt(x).to(x.dtype).expand(*x.shape[:3], -1)
        return x + self.convolution(torch.cat((x, prompt), -1))


class CrossAttentionPrompt(nn.Module):
    """The map plus what each of its pixels finds among the weighed prompt components.

    Pixels ask (``query``), the aligned components answer (``key``, ``value``), with one head; the
    output layer is zero at the start.

    Args:
        channels: channels of the map and of the components.
        components: number of prompt components.

    Source: ``Crossattn_Prompt`` of QMamba's table 8. Its wiring is not published; five square
    layers per stage are what its parameter count has room for.
    """

    def __init__(self, channels: int, components: int = 6) -> None:
        super().__init__()
        self.prompt = PromptMixture(channels, components, channels)
        self.align = linear(channels, channels)
        self.query, self.key = linear(channels, channels), linear(channels, channels)
        self.value = linear(channels, channels)
        self.output = _zero_linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, height, width, channels)`` to the same shape."""
        components = self.prompt.components.flatten(0, 2)
        tokens = self.align(self.prompt.weights(x).unsqueeze(-1) * components)
        # The axis of the one head, without which attention cannot be exported to ONNX.
        query, key, value = (
            layer(inputs).unsqueeze(1)
            for layer, inputs in (
                (self.query, x.flatten(1, 2)),
                (self.key, tokens),
                (self.value, tokens),
            )
        )
        found = F.scaled_dot_product_attention(query, key, value).squeeze(1)
        return x + self.output(found).unflatten(1, x.shape[1:3])


def _zero_linear(in_features: int, out_features: int) -> nn.Linear:
    layer = linear(in_features, out_features)
    nn.init.zeros_(layer.weight)
    return layer


def _resized(prompt: Tensor, height: int, width: int) -> Tensor:
    images = prompt.permute(0, 3, 1, 2)
    resized = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)
