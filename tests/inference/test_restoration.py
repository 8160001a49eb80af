"""The prepared restoration network against the plain module."""

from __future__ import annotations

import pytest
import torch

from qmamba.errors import ConfigError, ShapeError
from qmamba.inference import PreparedMambaIR, prepare
from qmamba.models import MambaIR
from qmamba.models.mambair.config import RestorationConfig
from qmamba.ops.native import library
from qmamba.ops.scan import dispatch
from tests.models.micro_mambair import VARIANTS, build, images

needs_kernel = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)


@pytest.fixture(params=list(VARIANTS))
def model(request: pytest.FixtureRequest) -> MambaIR:
    return build(VARIANTS[request.param])


def pair_of_images(config: RestorationConfig, height: int, width: int) -> torch.Tensor:
    return images(2, config.channels, height, width)


@needs_kernel
@pytest.mark.parametrize("size", [(12, 17), (1, 3)])
def test_it_computes_what_the_module_computes(model: MambaIR, size: tuple[int, int]) -> None:
    x = pair_of_images(model.config, *size)
    before = x.clone()
    with torch.no_grad():
        expected = model(x)
    network = prepare(model)
    assert isinstance(network, PreparedMambaIR)
    actual = network(x)
    assert actual.shape == expected.shape and actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5)
    assert torch.equal(x, before) and torch.equal(network(x), actual)


@needs_kernel
def test_bfloat16_stays_close_and_gives_float32(model: MambaIR) -> None:
    x = pair_of_images(model.config, 10, 9)
    with torch.no_grad():
        expected = model(x)
    actual = PreparedMambaIR(model, "bf16")(x)
    assert actual.dtype == torch.float32
    assert (actual - expected).abs().max() < 0.05 * expected.abs().max()


@needs_kernel
def test_integers_stay_close_and_give_float32(model: MambaIR) -> None:
    x = pair_of_images(model.config, 10, 9)
    with torch.no_grad():
        expected = model(x)
    network = prepare(model, "int8")
    assert isinstance(network, PreparedMambaIR)
    actual = network(x)
    assert actual.dtype == torch.float32 and torch.equal(network(x), actual)
    change = (actual - expected).abs().max()
    assert 0 < change < 0.05 * expected.abs().max()


@needs_kernel
def test_weights_are_those_of_the_moment_of_preparation() -> None:
    model = build(VARIANTS["denoise"])
    network = prepare(model)
    before = network(pair_of_images(model.config, 6, 6))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert torch.equal(network(pair_of_images(model.config, 6, 6)), before)


@needs_kernel
def test_other_shapes_and_devices_are_refused() -> None:
    model = build(VARIANTS["light-x2"])
    for shape in ((1, 1, 8, 8), (3, 8, 8), (1, 3, 0, 8)):
        with pytest.raises(ShapeError, match="needs images of shape"):
            PreparedMambaIR(model)(torch.zeros(shape))
    with pytest.raises(ConfigError, match="on the CPU"):
        PreparedMambaIR(model.to("meta"))


@pytest.mark.parametrize("backend", ["naive", "chunked"])
def test_it_needs_no_compiled_code(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, backend)
    model = build(VARIANTS["light-x2"])
    network = prepare(model)
    assert isinstance(network, PreparedMambaIR)
    monkeypatch.setattr(library, "_load", lambda: "not here")
    x = pair_of_images(model.config, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=2e-5)
