"""What "auto" stands for, and quantized networks in other precisions than their codes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qmamba.errors import ConfigError
from qmamba.inference import QuantizedNetwork, chosen_precision, prepare
from qmamba.ops.native import library
from qmamba.quantization import QuantConfig, calibrate, dequantized, quantize_
from tests.quantization.agreement import decibels
from tests.quantization.networks import NETWORKS, build, images

needs_kernel = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)


def converted(name: str, **options: Any) -> Any:
    model = quantize_(build(name), QuantConfig(**{"step": "ptq", **options}))
    calibrate(model, [images(2)])
    return quantize_(model, QuantConfig(step="convert"))


def test_auto_computes_what_was_trained() -> None:
    assert chosen_precision(converted("light"), "auto") == "codes"
    assert chosen_precision(build("light"), "auto") == "fp32"
    assert chosen_precision(converted("light", activation_bits=32), "auto") == "fp32"
    assert chosen_precision(converted("light", compat=True), "auto") == "codes"
    faked = quantize_(build("light"), QuantConfig())
    assert chosen_precision(faked, "auto") == "codes"
    assert chosen_precision(converted("light"), "bf16") == "bf16"


@needs_kernel
def test_an_instruction_set_that_is_asked_for_is_that_set_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(library.INSTRUCTION_SET_VARIABLE, "baseline")
    assert library.Kernel(library.load_kernel().library).products == library.PRODUCTS["wide"]


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_of_codes_are_those_of_the_quantized_network(name: str) -> None:
    """With exact activations both are one function, but for the logarithm of A."""
    model = converted(name, activation_bits=32)
    plain = dequantized(model)
    x = images(2, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-4)
    assert plain.quantization is None and not plain.training
    assert not any(parameter.requires_grad for parameter in plain.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_codes_in_another_precision_are_near(name: str, precision: Any) -> None:
    if precision == "int8" and library.unavailable_reason() is not None:
        pytest.skip(str(library.unavailable_reason()))
    model = converted(name, weight_bits=8, activation_bits=8)
    network = prepare(model, precision)
    assert not isinstance(network, QuantizedNetwork)
    expected = prepare(dequantized(model), precision)(images(2, seed=1))
    found = network(images(2, seed=1))
    assert torch.equal(found, expected)
    with torch.no_grad():
        plain = dequantized(model)(images(2, seed=1))
    assert decibels(found, plain) > (80 if precision == "fp32" else 20)


def test_a_network_that_is_not_converted_yet_has_values_of_codes_too() -> None:
    faked = quantize_(build("light"), QuantConfig(weight_bits=4, activation_bits=32))
    x = images(1, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(dequantized(faked)(x), faked.eval()(x), rtol=1e-4, atol=1e-4)


def test_what_no_network_in_full_precision_has_is_refused() -> None:
    model = converted("light")
    scan = next(m for m in model.modules() if hasattr(m, "frozen_A_logs"))
    scan.frozen_A_logs.offset -= 100
    scan.frozen_A_logs.highest += 100
    with pytest.raises(ConfigError, match="positive decay"):
        prepare(model, "fp32")


def test_codes_of_a_network_without_are_refused() -> None:
    with pytest.raises(ConfigError, match="full precision"):
        prepare(build("light"), "codes")
    with pytest.raises(ConfigError, match="unknown"):
        prepare(build("light"), "int4")  # type: ignore[arg-type]
