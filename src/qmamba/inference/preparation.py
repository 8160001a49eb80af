"""The fastest way to run a model where it is.

What preparation trades: the weights are those of the moment, there are no gradients and no tracing;
use the plain module for those. In return linear layers run on packed weights with GELU and residual
fused, the scan is one call from the projection to the norm, and nothing changes layout. The scan
is the one that is live at that moment, so all but ``int8`` needs no compiled code of this package.
A quantized network computes on its codes, or in full precision with the weights of the codes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.errors import ConfigError
from qmamba.inference.gpu.quality import GpuQMamba
from qmamba.inference.gpu.restoration import GpuMambaIR
from qmamba.inference.precision import Precision, ProcessBound, chosen_precision
from qmamba.inference.quality import PreparedQMamba
from qmamba.inference.quantized.networks import quantized_mambair, quantized_qmamba
from qmamba.inference.restoration import PreparedMambaIR
from qmamba.models import (
    MambaIR,
    MambaIRConfig,
    MambaIRv2,
    MambaIRv2Config,
    Network,
    QMamba,
    QMambaConfig,
)
from qmamba.models.network import require_network
from qmamba.ops.native.library import unavailable_reason
from qmamba.ops.scan.dispatch import kernel_is_live
from qmamba.ops.triton.operators import unavailable_reason as gpu_unavailable_reason
from qmamba.quantization import dequantized
from qmamba.quantization.layers import FrozenTensor
from qmamba.quantization.quantizers import DLS

PreparedNetwork: TypeAlias = Callable[[Tensor], Tensor]
"""Images to float32 results, without gradients: of a quality model normalized images
``(batch, 3, height, width)`` to ``(batch, outputs)``, of a restoration model images in [0, 1]
``(batch, channels, height, width)`` to restored ones."""


@runtime_checkable
class MappingNetwork(Protocol):
    """A prepared network that also says where in its images the outputs come from."""

    def __call__(self, images: Tensor) -> Tensor:
        """Normalized images to outputs, as for :data:`PreparedNetwork`."""

    def forward_with_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs ``(batch, outputs)`` and their parts at each position of the last map,
        ``(batch, rows, columns, outputs)``, whose mean they are; both float32."""


@dataclass(frozen=True)
class _Family:
    """How the networks of a family are prepared."""

    network: type[Network]
    plain: Callable[..., PreparedNetwork]
    """On the CPU."""
    quantized: Callable[[Any], PreparedNetwork]
    """On the CPU, on codes."""
    gpu: Callable[[Any, Precision], PreparedNetwork] | None
    """On a GPU, None where the module itself runs."""


_FAMILIES = {
    QMambaConfig.architecture: _Family(QMamba, PreparedQMamba, quantized_qmamba, GpuQMamba),
    MambaIRConfig.architecture: _Family(MambaIR, PreparedMambaIR, quantized_mambair, GpuMambaIR),
    MambaIRv2Config.architecture: _Family(MambaIRv2, PreparedMambaIR, quantized_mambair, None),
}
"""By the name of the architecture."""


def prepare(
    model: Network, precision: Precision = "auto", *, timed: bool = False
) -> PreparedNetwork:
    """Prepare a model for inference on the device where it is.

    On the CPU a QMamba gives a :class:`~qmamba.inference.quality.PreparedQMamba` and a MambaIR a
    :class:`~qmamba.inference.restoration.PreparedMambaIR`; with the C++ kernel, the codes of a
    quantized one give a :class:`QuantizedNetwork`. On a GPU with Triton the two give a
    :class:`~qmamba.inference.gpu.quality.GpuQMamba` and a
    :class:`~qmamba.inference.gpu.restoration.GpuMambaIR`. Else the module itself runs, under
    autocast for ``"bf16"``. The weights are those of this moment: later changes of the model are
    not followed.

    Args:
        model: a network of any family, in evaluation mode.
        precision: see :data:`~qmamba.inference.precision.Precision`. A quantized network in another
            one than its ``"codes"`` has the weights of the codes and activations that are not
            quantized, so its results differ from those of the network that was trained.
        timed: choose between the packed operator and ``F.linear`` for each linear layer by timing
            both once for its sizes, instead of by the rule that the packed one is taken where it
            works. The two differ in the last bits, so a result is the same from one process to the
            next only as far as the timings are.

    Raises:
        ConfigError: the precision is unknown, or is one that cannot be had, or the model is no
            network.

    Example:
        >>> import torch, qmamba
        >>> from qmamba.inference import prepare
        >>> model = qmamba.load("mambair-nano-x2-w4a4")
        >>> prepare(model)(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 3, 16, 16])
    """
    require_network(model, "prepare", "qmamba.load")
    precision = chosen_precision(model, precision)
    if model.quantization is not None and precision != "codes":
        model = dequantized(model)
    device = next(iter(model.state_dict().values())).device.type
    family = _FAMILIES.get(model.config.architecture)
    # A stand-in may have the configuration of a family and not its layers.
    if family is None or not isinstance(model, family.network):
        family = None
    on_gpu = None if family is None or device == "cpu" else family.gpu
    if device != "cpu":
        family = None
    if precision == "codes":
        converted = any(isinstance(module, FrozenTensor) for module in model.modules())
        if family is not None and converted and unavailable_reason() is None:
            # The kernel reads float32, and parts of the model would follow its later changes.
            private = copy.deepcopy(model).float()
            return QuantizedNetwork(model, family.quantized(private))
        return ModuleNetwork(model, precision)
    if precision == "int8" and not (family is not None and kernel_is_live()):
        raise ConfigError(
            "The option precision='int8' is for QMamba, MambaIR and MambaIRv2 on the CPU with the "
            "C++ kernel "
            "(`qmamba backends` shows whether it is there); choose fp32 or bf16."
        )
    if family is not None:
        return family.plain(model, precision, timed=timed)
    if on_gpu is not None and gpu_unavailable_reason(device) is None:
        return on_gpu(model, precision)
    return ModuleNetwork(model, precision)


class QuantizedNetwork(ProcessBound):
    """A converted network that computes on its codes, on the CPU with the C++ kernel.

    Its results are those of the converted network but for the order of sums in float32. On
    photographs every block is within 60 dB of its definition from the same input, and at 8 bits the
    network as well. With fewer bits a value between two codes may take the other one and move
    values after it; in float64 the converted network differs from itself as much.

    Args:
        model: the converted network, which runs itself where quantization parameters follow the
            whole batch, because the kernel takes statistics of one image at a time.
        network: the same on codes.
    """

    def __init__(self, model: Network, network: PreparedNetwork) -> None:
        self._module = ModuleNetwork(model)
        self._network = network
        self._has_batch_statistics = any(
            isinstance(module, DLS) and module.statistics == "batch" for module in model.modules()
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Images to float32 results, as for :data:`PreparedNetwork`."""
        return self._for(images)(images)

    def forward_with_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`MappingNetwork.forward_with_map`."""
        network = self._for(images)
        if not isinstance(network, MappingNetwork):
            raise ConfigError(_NO_MAP.format(type(self._module.model).__name__))
        return network.forward_with_map(images)

    def _for(self, images: Tensor) -> PreparedNetwork:
        whole_batch = self._has_batch_statistics and len(images) > 1
        if images.device.type != "cpu" or images.dtype != torch.float32 or whole_batch:
            return self._module
        return self._network


class ModuleNetwork:
    """A network as it is, without gradients; later changes of its weights count.

    Args:
        model: any network.
        precision: ``"fp32"``, or ``"bf16"`` for autocast to bfloat16.
    """

    def __init__(self, model: Network, precision: Precision = "fp32") -> None:
        self.model = model
        device = next(iter(model.state_dict().values())).device.type
        self._autocast = (device, torch.bfloat16, precision == "bf16")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images to float32 results."""
        with torch.autocast(*self._autocast):
            results: Tensor = self.model(images)
            return results.float()

    @torch.no_grad()
    def forward_with_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`MappingNetwork.forward_with_map`.

        Raises:
            ConfigError: the network does not end with a mean and a linear head.
        """
        model = self.model
        if not isinstance(model, QMamba):
            raise ConfigError(_NO_MAP.format(type(model).__name__))
        with torch.autocast(*self._autocast):
            features = model.last_map(images)
            outputs = model.classifier.head(features.mean((1, 2))).float()
            beside = model.beside(images)
        head = model.classifier.head
        # In bfloat16 the rounding of each position would not average out.
        positions = F.linear(features.float(), head.weight.float(), head.bias)
        return outputs + beside, positions + beside[:, None, None]


_NO_MAP = "A {} has no quality map; give weights of a QMamba model."
