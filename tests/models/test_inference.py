"""The prepared network against the plain module."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qmamba.errors import ConfigError
from qmamba.models import QMamba, create_model
from qmamba.models.inference import InferenceModel, inference_network
from qmamba.nn import packed
from qmamba.ops import dispatch, kernel

needs_kernel = pytest.mark.skipif(
    kernel.unavailable_reason() is not None, reason=str(kernel.unavailable_reason())
)


@pytest.fixture(params=["qmamba-nano", "lqmamba-nano"])
def model(request: pytest.FixtureRequest) -> QMamba:
    torch.manual_seed(0)
    network = create_model(request.param, dims=(16, 32, 32, 48), depths=(1, 1, 2, 1))
    assert isinstance(network, QMamba)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1) if parameter.dim() == 1 else None
    return network.eval()


def images(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@needs_kernel
@pytest.mark.parametrize("size", [(64, 64), (75, 53), (33, 96), (5, 4)])
def test_it_computes_what_the_module_computes(model: QMamba, size: tuple[int, int]) -> None:
    with torch.no_grad():
        expected = model.forward_features(images(*size)), model(images(*size))
    prepared = InferenceModel(model)
    torch.testing.assert_close(
        prepared.forward_features(images(*size)), expected[0], rtol=1e-4, atol=2e-5
    )
    torch.testing.assert_close(prepared(images(*size)), expected[1], rtol=1e-4, atol=2e-5)


@needs_kernel
def test_bfloat16_stays_close_and_gives_float32(model: QMamba) -> None:
    with torch.no_grad():
        expected = model.forward_features(images())
    actual = InferenceModel(model, "bf16").forward_features(images())
    assert actual.dtype == torch.float32
    assert (actual - expected).abs().max() < 0.05 * expected.abs().max()


@needs_kernel
def test_without_the_private_operators_the_result_is_the_same(
    model: QMamba, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = InferenceModel(model)(images())
    monkeypatch.setattr(packed, "packed_linear_works", lambda dtype: False)
    monkeypatch.setattr(packed, "fused_convolution_works", lambda dtype: False)
    torch.testing.assert_close(InferenceModel(model)(images()), expected, rtol=1e-4, atol=2e-5)


@needs_kernel
def test_weights_are_those_of_the_moment_of_preparation(model: QMamba) -> None:
    prepared = inference_network(model)
    before = prepared(images())
    with torch.no_grad():
        model.classifier.head.weight.add_(1)
        model.layers[0].blocks[0].norm.weight.add_(1)  # type: ignore[union-attr,index]
    assert torch.equal(prepared(images()), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_door_reports_what_this_torch_has(dtype: torch.dtype) -> None:
    assert packed.packed_linear_works(dtype) in (True, False)
    layer = nn.Linear(16, 24)
    x, residual = torch.randn(2, 5, 16).to(dtype), torch.randn(2, 5, 24).to(dtype)
    fast = packed.PackedLinear(layer.weight.to(dtype), layer.bias, rows=10)
    plain = layer.to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    with torch.no_grad():
        pairs = [
            (fast(x), plain(x)),
            (fast(x, gelu=True), nn.functional.gelu(plain(x))),
            (fast(x, residual=residual), plain(x) + residual),
        ]
    for actual, expected in pairs:
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_a_forced_backend_runs_the_plain_module(
    model: QMamba, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, "naive")
    network = inference_network(model)
    assert not isinstance(network, InferenceModel)
    with torch.no_grad():
        torch.testing.assert_close(network(images(32, 32)), model(images(32, 32)))


def test_an_unknown_precision_is_refused(model: QMamba) -> None:
    with pytest.raises(ConfigError, match="'int4' is unknown; choose fp32 or bf16"):
        inference_network(model, "int4")  # type: ignore[arg-type]
