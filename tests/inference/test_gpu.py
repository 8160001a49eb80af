"""Networks prepared for a GPU, computed by their definitions, and when calls are replayed.

The kernels themselves are tested in ``tests/ops/triton_layer_checks.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qmamba.errors import ShapeError
from qmamba.inference import preparation, prepare
from qmamba.inference.gpu.graphs import GraphedCalls
from qmamba.inference.gpu.quality import GpuQMamba
from qmamba.inference.gpu.restoration import GpuMambaIR
from qmamba.models import MambaIR, MambaIRConfig, MambaIRv2, MambaIRv2Config, QMamba, QMambaConfig
from qmamba.ops.triton.layers import depthwise_silu

SMALL = QMambaConfig(dims=(8, 16), depths=(2, 1), windows=(1, 1))
SMALL_IR = MambaIRConfig(dim=8, depths=(2, 1), state_size=2, expansion=1.0, attention_reduction=4)


def awake(model: torch.nn.Module) -> torch.nn.Module:
    """With weights of a size at which every part counts."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.add_(0.05 * noise)
    return model.eval()


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        SMALL.replace(windows=(2, 1), route_gate=True, num_outputs=3),
        SMALL.replace(statistics=8),
        SMALL.replace(state_size=3, expansion=1.0),
    ],
)
def test_quality(config: QMambaConfig) -> None:
    model = awake(QMamba(config))
    assert isinstance(model, QMamba)
    images = torch.randn(2, 3, 33, 46, generator=torch.Generator().manual_seed(1))
    prepared = GpuQMamba(model)
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(prepared(images), expected, atol=1e-5, rtol=1e-5)
        features = model.forward_features(images)
    torch.testing.assert_close(prepared.forward_features(images), features, atol=1e-5, rtol=1e-5)
    outputs, positions = prepared.forward_with_map(images)
    torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(positions.mean((1, 2)), expected, atol=1e-5, rtol=1e-5)
    half = GpuQMamba(model, "bf16")(images)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, atol=0.1, rtol=0.05)
    # The weights are those of the moment.
    kept = prepared(images)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(prepared(images), kept)


@pytest.mark.parametrize(
    "config",
    [
        SMALL_IR,
        SMALL_IR.replace(scale=3, cab="convolution", group_convolution="3conv", image_range=255.0),
        SMALL_IR.replace(task="sr-classic", scale=4, cab="depthwise", cab_reduction=1),
        SMALL_IR.replace(task="sr-real", scale=4),
        SMALL_IR.replace(task="denoise", scale=1, channels=1),
    ],
)
def test_restoration(config: MambaIRConfig) -> None:
    model = awake(MambaIR(config))
    assert isinstance(model, MambaIR)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, config.channels, 9, 6, generator=generator)
    prepared = GpuMambaIR(model)
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(prepared(images), expected, atol=2e-5, rtol=2e-5)
    half = GpuMambaIR(model, "bf16")(images)
    assert half.dtype == torch.float32
    assert (half - expected).abs().mean() < 0.05
    with pytest.raises(ShapeError, match="This MambaIR needs images"):
        prepared(images[0])


def test_what_runs_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins on the meta device, which is not the CPU and computes nothing."""
    monkeypatch.setattr(preparation, "gpu_unavailable_reason", lambda _: None)
    with torch.device("meta"):
        quality, restoration, second = (
            QMamba(SMALL),
            MambaIR(SMALL_IR),
            MambaIRv2(MambaIRv2Config()),
        )
    assert type(prepare(quality.eval())) is GpuQMamba
    assert type(prepare(restoration.eval(), "bf16")) is GpuMambaIR
    assert type(prepare(second.eval())) is preparation.ModuleNetwork
    monkeypatch.setattr(preparation, "gpu_unavailable_reason", lambda _: "no Triton")
    assert type(prepare(quality)) is preparation.ModuleNetwork


def test_a_map_that_is_not_made_of_rows() -> None:
    from qmamba.ops.triton.layers import _row_stride

    x = torch.zeros(2, 3, 4, 10)
    assert _row_stride(x) == 10 and _row_stride(x[..., :5]) == 10
    with pytest.raises(ValueError, match="not evenly spaced"):
        _row_stride(x[:, :2])
    taps = torch.ones(3, 3, 5)
    assert depthwise_silu(x[..., :5], taps, None).is_contiguous()


class Recorder:
    """Captures in plain Python, and counts."""

    def __init__(self, change: float = 0.0) -> None:
        self.captured = self.replayed = 0
        self.change = change

    def __call__(
        self, function: Callable[[Tensor], Tensor], images: Tensor
    ) -> Callable[[Tensor], Tensor]:
        self.captured += 1

        def replay(others: Tensor) -> Tensor:
            assert others.shape == images.shape
            self.replayed += 1
            return function(others) + self.change

        return replay


def test_calls_of_a_shape_are_replayed_from_the_third_on() -> None:
    recorder = Recorder()
    calls = GraphedCalls(lambda x: 2 * x, recorder, devices=("cpu",))
    for index in range(5):
        images = torch.full((1, 2), float(index))
        assert torch.equal(calls(images), 2 * images)
    # The first replay only shows that it gives the same bits.
    assert (recorder.captured, recorder.replayed) == (1, 1 + 3)
    calls(torch.zeros(3, 2))
    calls(torch.zeros(1, 2, dtype=torch.float64))
    assert recorder.captured == 1


def test_the_shapes_used_last_are_kept() -> None:
    recorder = Recorder()
    calls = GraphedCalls(lambda x: 2 * x, recorder, devices=("cpu",))
    for size in (1, 1, 2, 3, 4, 1, 5, 1, 2, 2):
        calls(torch.zeros(size))
    # Shape 1 stayed in use; shape 2 was forgotten and had to come twice again.
    assert recorder.captured == 2 and recorder.replayed == 1 + 2 + 1


def test_other_bits_or_a_failure_end_it(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(change=1e-6)
    calls = GraphedCalls(lambda x: 2 * x, recorder, devices=("cpu",))
    assert all(torch.equal(calls(torch.ones(2)), torch.full((2,), 2.0)) for _ in range(5))
    assert (recorder.captured, recorder.replayed) == (1, 1)

    def fail(function: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[Tensor], Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing")

    calls = GraphedCalls(lambda x: 2 * x, fail, devices=("cpu",))
    with caplog.at_level(logging.WARNING):
        assert all(torch.equal(calls(torch.ones(2)), torch.full((2,), 2.0)) for _ in range(4))
    assert caplog.text.count("could not be recorded") == 1


def test_large_inputs_and_other_devices_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    calls = GraphedCalls(lambda x: 2 * x, recorder)
    for _ in range(4):
        calls(torch.ones(2))
    monkeypatch.setattr("qmamba.inference.gpu.graphs._MOST_VALUES", 3)
    calls = GraphedCalls(lambda x: 2 * x, recorder, devices=("cpu",))
    for _ in range(4):
        calls(torch.ones(4))
    assert recorder.captured == 0
