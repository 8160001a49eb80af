"""The prepared network against the plain module."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qmamba.errors import ConfigError
from qmamba.inference import PreparedQMamba, packed, prepare
from qmamba.models import QMamba, create_model
from qmamba.ops.native import library
from qmamba.ops.scan import dispatch

needs_kernel = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
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
    prepared = PreparedQMamba(model)
    torch.testing.assert_close(
        prepared.forward_features(images(*size)), expected[0], rtol=1e-4, atol=2e-5
    )
    torch.testing.assert_close(prepared(images(*size)), expected[1], rtol=1e-4, atol=2e-5)


@needs_kernel
def test_bfloat16_stays_close_and_gives_float32(model: QMamba) -> None:
    with torch.no_grad():
        expected = model.forward_features(images())
    actual = PreparedQMamba(model, "bf16").forward_features(images())
    assert actual.dtype == torch.float32
    assert (actual - expected).abs().max() < 0.05 * expected.abs().max()


@needs_kernel
def test_integers_stay_close_and_give_float32(model: QMamba) -> None:
    with torch.no_grad():
        expected = model.forward_features(images())
    actual = PreparedQMamba(model, "int8").forward_features(images())
    assert actual.dtype == torch.float32
    assert (actual - expected).abs().max() < 0.05 * expected.abs().max()


@needs_kernel
@pytest.mark.parametrize("size", [(64, 64), (37, 50), (5, 4)])
def test_integers_of_an_image_do_not_depend_on_the_batch(
    model: QMamba, size: tuple[int, int]
) -> None:
    network = PreparedQMamba(model, "int8")
    batch = images(*size)
    batch[1] *= 40
    alone = torch.cat([network(image) for image in batch.split(1)])
    # Only the convolutions in float32 may sum in another order.
    torch.testing.assert_close(network(batch), alone, rtol=1e-3, atol=2e-3)
    assert torch.equal(network(batch), network(batch))


@needs_kernel
def test_without_the_private_operators_the_result_is_the_same(
    model: QMamba, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = PreparedQMamba(model)(images())
    monkeypatch.setattr(packed, "packed_linear_works", lambda dtype: False)
    monkeypatch.setattr(packed, "packed_convolution_works", lambda dtype: False)
    torch.testing.assert_close(PreparedQMamba(model)(images()), expected, rtol=1e-4, atol=2e-5)


@needs_kernel
def test_weights_are_those_of_the_moment_of_preparation(model: QMamba) -> None:
    prepared = prepare(model)
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


@pytest.mark.parametrize("activation", [None, "silu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 12])
@pytest.mark.parametrize("size", [(1, 1), (9, 4)])
def test_packed_convolutions(
    activation: packed.Activation | None, dtype: torch.dtype, groups: int, size: tuple[int, int]
) -> None:
    layer = nn.Conv2d(12, 24, 3, 2, padding=2, dilation=2, groups=groups)
    x = torch.randn(2, 12, *size).to(dtype)
    fast = packed.PackedConv2d(layer, dtype)
    plain = layer.to(dtype)(x).detach()
    expected = plain if activation is None else getattr(nn.functional, activation)(plain)
    actual = fast(x.permute(0, 2, 3, 1).contiguous(), activation=activation).permute(0, 3, 1, 2)
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_timing_takes_the_plain_layer_only_where_it_clearly_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert isinstance(packed.plain_is_faster(16, 24, 10, torch.float32), bool)
    weight, x = torch.randn(24, 16), torch.randn(10, 16)
    for wins in (True, False):
        monkeypatch.setattr(packed, "plain_is_faster", lambda *sizes, wins=wins: wins)
        timed = packed.PackedLinear(weight, None, 10, timed=True)
        assert timed._is_packed == (packed.packed_linear_works(torch.float32) and not wins)
        torch.testing.assert_close(timed(x), nn.functional.linear(x, weight))


@needs_kernel
def test_a_timed_network_computes_the_same(model: QMamba) -> None:
    timed = prepare(model, timed=True)
    torch.testing.assert_close(timed(images()), PreparedQMamba(model)(images()))


def test_integers_are_refused_where_they_cannot_be_had(
    model: QMamba, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, "naive")
    for network in (model, create_model("mambair-nano-x2")):
        with pytest.raises(ConfigError, match="choose fp32 or bf16"):
            prepare(network, "int8")


@pytest.mark.parametrize("backend", ["naive", "chunked"])
def test_it_needs_no_compiled_code(
    model: QMamba, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, backend)
    network = prepare(model)
    assert isinstance(network, PreparedQMamba)
    monkeypatch.setattr(library, "_load", lambda: "not here")
    with torch.no_grad():
        expected = model.forward_features(images(32, 32))
    torch.testing.assert_close(
        network.forward_features(images(32, 32)), expected, rtol=1e-4, atol=2e-5
    )
    half = PreparedQMamba(model, "bf16").forward_features(images(32, 32))
    assert (half - expected).abs().max() < 0.05 * expected.abs().max()


def test_an_unknown_precision_is_refused(model: QMamba) -> None:
    message = "'int4' is unknown; choose auto, fp32, bf16, int8 or codes"
    with pytest.raises(ConfigError, match=message):
        prepare(model, "int4")  # type: ignore[arg-type]
