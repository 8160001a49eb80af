from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import qmamba
from qmamba.errors import ConfigError, DataError
from qmamba.quantization import (
    DLS,
    LSQ,
    QUANTIZERS,
    RFA,
    QuantConfig,
    QuantizedConv2d,
    QuantizedLinear,
    QuantizedSS2D,
    Static,
    calibrate,
    quantize_,
    quantized_names,
    quantizers,
)
from tests.quantization.networks import NETWORKS, build, images

CONVERT = QuantConfig(step="convert")


def trained(name: str, **options: Any) -> nn.Module:
    """A prepared network whose quantizers have started."""
    model = quantize_(build(name), QuantConfig(**options)).train()
    model(images(2))
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_eight_bits_are_close_and_two_are_not(name: str) -> None:
    x = images(2)
    exact = build(name)(x)
    errors = [
        (trained(name, weight_bits=bits, activation_bits=bits)(x) - exact).square().mean()
        / exact.var()
        for bits in (8, 2)
    ]
    assert errors[0] < 0.02 and errors[1] > 5 * errors[0]


def test_nothing_quantized_changes_nothing() -> None:
    x = images(2)
    for name in NETWORKS:
        model = quantize_(build(name), QuantConfig(weight_bits=None, activation_bits=32))
        assert not list(quantizers(model))
        torch.testing.assert_close(model(x), build(name)(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_full_precision_parameters_keep_their_names_and_values(name: str) -> None:
    exact = build(name).state_dict()
    prepared = quantize_(build(name)).state_dict()
    for key, value in exact.items():
        assert torch.equal(prepared.pop(key), value)
    assert all("_quantizer." in key for key in prepared)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_parameter(name: str) -> None:
    model = quantize_(build(name)).train()
    model(images(2)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), key
    weights = [m.weight for m in model.modules() if isinstance(m, QuantizedLinear)]
    assert all(bool(w.grad.abs().sum() > 0) for w in weights if w.grad is not None)


def test_the_lightweight_block_has_the_quantizers_of_the_paper() -> None:
    model = quantize_(build("light"))
    block = dict(model.named_modules())["layers.0.residual_group.blocks.0"]
    found = {name: type(q) for name, q in quantizers(block)}
    kinds = list(found.values())
    assert (kinds.count(RFA), kinds.count(Static), kinds.count(DLS)) == (9, 8, 8)
    attention = "self_attention"
    assert found[f"{attention}.out_proj.input_quantizer"] is DLS
    assert found[f"{attention}.in_proj.input_quantizer"] is Static
    assert not any("attention.1" in name or "ln_" in name for name in found)


def test_layers_at_the_ends_stay_exact() -> None:
    names = quantized_names(build("classic"))
    assert "layers.0.conv" in names
    ends = ("conv_first", "conv_after_body", "conv_before_upsample", "upsample", "conv_last")
    assert not any(name.startswith(ends) for name in names)
    names = quantized_names(build("quality"))
    assert "layers.0.downsample.1" in names and "layers.1.blocks.0.mlp.fc2" in names
    assert not any(name.startswith(("patch_embed", "classifier")) for name in names)


def test_the_officially_named_network_has_the_counted_tensors() -> None:
    with torch.device("meta"):
        light = qmamba.create_model("mambair-light-x4")
        classic = qmamba.create_model("mambair-classic-x4")
    # Seven more in every block than the layers themselves: the scan and its two projections.
    for model, count in ((light, 220), (classic, 258)):
        names = quantized_names(model)
        blocks = sum(name.endswith("self_attention") for name in names)
        assert len(names) + 4 * blocks == count


@pytest.mark.parametrize("weight", sorted(QUANTIZERS))
def test_every_weight_quantizer_converts_exactly(weight: str) -> None:
    model = trained("light", weight=weight, activation="lsq")
    x = images(2, seed=3)
    with torch.no_grad():
        before = model(x)
    assert quantize_(model, CONVERT) is model
    assert torch.equal(model(x), before)
    assert not any(q.operand.role == "weight" for _, q in quantizers(model))


@pytest.mark.parametrize("activation", sorted(QUANTIZERS))
@pytest.mark.parametrize("name", ["denoise", "local quality"])
def test_every_activation_quantizer_works_in_its_place(name: str, activation: str) -> None:
    model = trained(name, activation=activation, weight_bits=None)
    used = {type(q) for _, q in quantizers(model)}
    assert QUANTIZERS[activation] in used
    assert used <= {QUANTIZERS[activation], Static}
    x = images(2, seed=3)
    with torch.no_grad():
        before = model(x)
    assert torch.equal(quantize_(model, CONVERT)(x), before)


def test_converted_weights_are_codes_of_few_bits() -> None:
    model = quantize_(trained("light", weight_bits=2, activation_bits=3), CONVERT)
    state = model.state_dict()
    assert "layers.0.conv.weight" not in state
    codes = state["layers.0.conv.frozen_weight.codes"]
    assert codes.dtype == torch.int8 and codes.min() >= -2 and codes.max() <= 1
    scan = dict(model.named_modules())["layers.0.residual_group.blocks.0.self_attention"]
    assert isinstance(scan, QuantizedSS2D)
    # The decay stays negative after quantization: the state cannot grow.
    assert bool((scan.constant("A_logs") < 0).all())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("converted", [False, True])
def test_state_dict_round_trip(converted: bool) -> None:
    model = trained("light")
    other = quantize_(build("light", seed=1)).eval()
    if converted:
        quantize_(model, CONVERT), quantize_(other, CONVERT)
    other.load_state_dict(model.state_dict())
    x = images(2, seed=3)
    assert torch.equal(other(x), model(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_full_precision_weights_loaded_afterwards_start_the_quantizers_again() -> None:
    model = quantize_(build("light", seed=1))
    model.load_state_dict(build("light").state_dict(), strict=False)
    expected = quantize_(build("light"))
    x = images(2)
    assert torch.equal(model.train()(x), expected.train()(x))


def test_an_image_does_not_depend_on_its_batch() -> None:
    model = trained("light", weight_bits=8, activation_bits=8)
    x = torch.cat([images(2), 5 * images(2, seed=1)])
    alone = torch.cat([model(image[None]) for image in x])
    together = model(x)
    # A value next to a boundary may take the other side when a sum is rounded differently.
    assert (alone - together).abs().median() < 1e-5
    assert (alone - together).square().mean() < 1e-4 * together.var()


def test_overrides_reach_layers_and_parts_of_the_scan() -> None:
    model = quantize_(
        build("light"),
        QuantConfig(
            overrides={
                "layers.1.*": {"weight_bits": 8},
                "*.scan": {"activation_bits": None},
                "*.x_proj": {"weight": "lsq"},
                "layers.0.conv": {"activation": "minmax", "activation_bits": 2},
            }
        ),
    )
    modules = dict(model.named_modules())
    first, second = (modules[f"layers.{i}.residual_group.blocks.0.self_attention"] for i in (0, 1))
    assert first.in_proj.weight_quantizer.bits == 4
    assert second.in_proj.weight_quantizer.bits == 8
    assert first.steps_quantizer is None and first.A_logs_quantizer is None
    assert isinstance(first.x_proj_weight_quantizer, LSQ)
    assert modules["layers.0.conv"].input_quantizer.bits == 2
    model.train()(images(2)).sum().backward()


def test_a_filter_keeps_layers_exact() -> None:
    seen = []

    def only_convolutions(module: nn.Module, name: str) -> bool:
        seen.append(name)
        return isinstance(module, nn.Conv2d)

    model = quantize_(build("light"), filter_fn=only_convolutions)
    assert any(isinstance(m, QuantizedConv2d) for m in model.modules())
    assert not any(isinstance(m, QuantizedSS2D) for m in model.modules())
    assert "layers.0.residual_group.blocks.0.self_attention" in seen

    without_scan = quantize_(build("light"), filter_fn=lambda _, name: not name.endswith(".scan"))
    names = [name for name, _ in quantizers(without_scan)]
    assert any("x_proj_weight" in name for name in names)
    assert not any(name.endswith(("steps_quantizer", "Ds_quantizer")) for name in names)


def test_calibration_starts_everything_without_training() -> None:
    model = quantize_(
        build("light"), QuantConfig(8, 8, weight="minmax", activation="minmax", step="ptq")
    )
    x = images(4)
    with pytest.raises(ConfigError, match="no data"):
        model(x)
    before = {key: value.clone() for key, value in build("light").state_dict().items()}
    assert calibrate(model, [x[:2], x[2:]]) is model
    exact = build("light")(x)
    assert (model(x) - exact).square().mean() < 0.05 * exact.var()
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in before.items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_calibration_sees_the_extremes_of_all_batches() -> None:
    model: Any = quantize_(build("light"), QuantConfig(activation="minmax"))
    x = images(2)
    calibrate(model, [x, 10 * x])
    wide = model.layers[0].conv.input_quantizer.alpha.clone()
    calibrate(model, [x])
    assert model.layers[0].conv.input_quantizer.alpha < wide


def test_calibration_needs_quantizers_and_batches() -> None:
    with pytest.raises(ConfigError, match="no quantizers"):
        calibrate(build("light"), [images(1)])
    model = quantize_(build("light"))
    with pytest.raises(DataError, match="at least one batch"):
        calibrate(model, [])
    # A failed calibration leaves no quantizer behind that lets values pass.
    assert all(quantizer.sample is None for _, quantizer in quantizers(model))


def test_frozen_statistics_come_from_calibration() -> None:
    model: Any = quantize_(build("light"), QuantConfig(statistics="frozen")).eval()
    calibrate(model, [images(4)])
    scan = model.layers[0].residual_group.blocks[0].self_attention
    qparams = scan.steps_quantizer.choose_qparams(torch.zeros(1, 4, 3, 5))
    other = scan.steps_quantizer.choose_qparams(torch.ones(2, 4, 3, 5))
    assert qparams.scale.shape == (1,) and torch.equal(qparams.scale, other.scale)


@pytest.mark.parametrize("model", [nn.Linear(3, 3), nn.Sequential(nn.Conv2d(3, 3, 1))])
def test_other_networks_are_refused(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match="no layer"):
        quantize_(model)


def test_steps_out_of_order_are_refused() -> None:
    with pytest.raises(ConfigError, match="prepare"):
        quantize_(build("light"), CONVERT)
    model = quantize_(build("light"))
    with pytest.raises(ConfigError, match="already"):
        quantize_(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 5}, "bits"),
        ({"activation_bits": 0}, "bits"),
        ({"weight": "best"}, "weight must be"),
        ({"activation": "rfaa"}, "activation must be"),
        ({"statistics": "all"}, "statistics"),
        ({"step": "train"}, "step"),
        ({"compat": "yes"}, "compat"),
        ({"overrides": {"*": {"bits": 4}}}, "no setting 'bits'"),
        ({"overrides": {"*": {"weight_bits": 7}}}, "bits"),
        ({"overrides": ["*"]}, "overrides"),
    ],
)
def test_values_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QuantConfig(**options)


def test_a_configuration_survives_json() -> None:
    config = QuantConfig(2, None, "lsq+", "pams", overrides={"a.*": {"weight_bits": 8}})
    assert QuantConfig(**config.to_dict()) == config
    assert config.replace(step="ptq").step == "ptq"
    assert QuantConfig(32, 4).weight_bits is None


def test_the_public_names() -> None:
    assert qmamba.quantize_ is quantize_
    assert qmamba.QuantConfig is QuantConfig
