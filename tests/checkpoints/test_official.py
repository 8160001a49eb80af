from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qmamba.checkpoints.official import convert_official, is_official, load_official
from qmamba.errors import CheckpointError
from qmamba.quantization.quantizers import OfficialDLS, OfficialRFA, OfficialStatic, Quantizer
from tests.quantization.networks import build

CLASSES = {"DDA_Quant": OfficialDLS, "oneRK_U": OfficialRFA, "Act_Quant": OfficialStatic}
NETWORKS = ("light_x2_4b", "light_x2_2b", "dn_4b")


@pytest.fixture(scope="module")
def recorded(shared: Path) -> dict[tuple[str, int, str], Any]:
    return torch.load(shared / "parity" / "qmambair_ops.pt", weights_only=False)


def fill(quantizer: Quantizer, recorded: dict[str, Tensor]) -> None:
    """Put a recorded state into a quantizer."""
    state = convert_official({f"layer.xs_q.{key}": value for key, value in recorded.items()})
    quantizer.load_state_dict({k.removeprefix("layer.x_quantizer."): v for k, v in state.items()})


def recorded_gradients(quantizer: Quantizer, grads: dict[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(quantizer, OfficialDLS):
        return {name: grads[name] for name, _ in quantizer.named_parameters()}
    return {
        "step_weights": torch.cat([grads[f"weight{i}"] for i in range(1, 5)]),
        "offset_weights": torch.cat([grads[f"weight2{i}"] for i in range(1, 5)]),
    }


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", CLASSES)
def test_recorded_values_and_gradients(
    recorded: dict[tuple[str, int, str], Any], name: str, bits: int
) -> None:
    cases = {key[2]: case for key, case in recorded.items() if key[:2] == (name, bits)}
    assert len(cases) == 7
    for kind, case in cases.items():
        if name == "DDA_Quant" and kind == "const":
            continue
        for part in ("first", "second", "eval"):
            record = case[part]
            quantizer = CLASSES[name](bits).train(record["train"])
            fill(quantizer, record["params_before"])
            x = record["x"].clone().requires_grad_()
            y = quantizer(x)
            (y * record["up"]).sum().backward()
            torch.testing.assert_close(y, record["y"], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(x.grad, record["grad_x"], rtol=1e-5, atol=1e-5)
            # These are sums of many terms that nearly cancel; compared with what is summed.
            size = 1e-6 * float(record["up"].abs().sum())
            for key, expected in recorded_gradients(quantizer, record["grads"]).items():
                gradient = quantizer.get_parameter(key).grad
                torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5 + size)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_codes_of_the_official_ones(name: str, shift: float) -> None:
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)) + shift
    x = x.abs() if shift else x
    quantizer = CLASSES[name](4)
    y = quantizer(x)
    qparams, codes = quantizer.choose_qparams(x), quantizer.quantize(x)
    assert bool(quantizer.signed) == (shift == 0)
    assert int(codes.min()) >= qparams.low and int(codes.max()) <= qparams.high
    torch.testing.assert_close(qparams.dequantize(codes), y.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4])
def test_the_official_flaw_of_constants_is_kept(
    recorded: dict[tuple[str, int, str], Any], bits: int
) -> None:
    record = recorded["DDA_Quant", bits, "const"]["first"]
    assert bool(OfficialDLS(bits)(record["x"]).isnan().all())
    assert bool(record["y"].isnan().all())


def assert_close_but_for_ties(actual: Tensor, expected: Tensor) -> None:
    error = (actual - expected).abs().flatten() / expected.abs().max()
    assert error.median() < 1e-4 and error.quantile(0.99) < 1e-2


@pytest.mark.parametrize("name", NETWORKS)
def test_recorded_networks(shared: Path, name: str) -> None:
    record = torch.load(shared / "parity" / f"qmambair_tiny_{name}.pt", weights_only=False)
    model = load_official({"params": record["state_before_init"]}).train()
    y = model(record["input"])
    assert_close_but_for_ties(y.detach(), record["output_train_first"])
    (y * record["loss_weight"]).sum().backward()
    expected = convert_official(record["grads"])
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    errors = torch.tensor(
        [
            float((gradients[key] - grad).norm() / grad.norm().clamp_min(1e-6))
            for key, grad in expected.items()
        ]
    )
    assert errors.median() < 1e-3

    state = convert_official(record["state_after_init"])
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=1e-3, atol=1e-5)
    model = load_official(record["state_after_init"])
    with torch.no_grad():
        for given, expected_output in (("input", "output_eval"), ("input2", "output_eval2")):
            assert_close_but_for_ties(model(record[given]), record[expected_output])
        pair = torch.cat([record["input"][:1], record["input2"][:1]])
        assert_close_but_for_ties(model(pair), record["output_eval_batch2"])


def test_other_checkpoints_are_refused(shared: Path) -> None:
    plain = build("light").state_dict()
    assert not is_official(plain)
    with pytest.raises(CheckpointError, match="no quantizers"):
        load_official(plain)
    record = torch.load(shared / "parity" / "qmambair_tiny_dn_4b.pt", weights_only=False)
    state = dict(record["state_after_init"])
    del state["layers.0.residual_group.blocks.0.self_attention.xs_q.signed"]
    with pytest.raises(CheckpointError, match="1 tensors are missing"):
        load_official(state)
    thresholds = "layers.0.conv.0.conv_weight_quant.a"
    with pytest.raises(CheckpointError, match="one number of bits"):
        load_official({**state, thresholds: torch.zeros(4)})
