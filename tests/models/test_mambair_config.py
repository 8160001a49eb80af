"""Configurations of MambaIR, the named ones and their accounting."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qmamba.errors import ConfigError
from qmamba.models import (
    MambaIRConfig,
    count_flops,
    count_parameters,
    create_model,
    list_models,
    model_config,
    named_configs,
)
from qmamba.models.fields import expansion_of
from qmamba.nn import SS2D, ChannelAttention
from tests.models.micro_mambair import MICRO, VARIANTS, build, images
from tests.models.published import FEBRUARY, MARCH, PARAMETERS
from tests.models.values import json_values

OLDER_LIGHT_PARAMETERS = [
    (MARCH, 2, 1_363_320),
    (MARCH, 3, 1_371_435),
    (MARCH, 4, 1_382_796),
    (FEBRUARY, 2, 933_672),
]
# Printed for an output of 720 x 1280.
PRINTED_GFLOPS = {2: 334.2, 3: 148.5, 4: 84.6}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    assert count_parameters(model_config(name)) == PARAMETERS[name]


@pytest.mark.parametrize(("options", "scale", "count"), OLDER_LIGHT_PARAMETERS)
def test_parameters_of_older_generations(options: dict[str, Any], scale: int, count: int) -> None:
    assert count_parameters(model_config("mambair-light-x2", scale=scale, **options)) == count


def test_every_name() -> None:
    names = list_models("mambair-*")
    assert set(names) - set(PARAMETERS) == {
        "mambair-nano-x2",
        "mambair-nano-x3",
        "mambair-nano-x4",
        "mambair-nano-denoise",
        "mambair-nano-denoise-blind",
        "mambair-nano-jpeg",
        "mambair-nano-jpeg-color",
    }
    assert model_config("mambair-classic-x2").to_dict()["expansion"] == 2.0


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mambair-nano-denoise", 85_659),
        # One more channel into a convolution of 3 x 3 to 32 channels.
        ("mambair-nano-denoise-blind", 85_659 + 9 * 32),
        ("mambair-nano-jpeg-color", 85_659),
    ],
)
def test_parameters_with_a_condition(name: str, count: int) -> None:
    assert count_parameters(model_config(name)) == count


def test_conditions_only_where_nothing_is_enlarged() -> None:
    with pytest.raises(ConfigError, match="condition_channels for sr-light"):
        model_config("mambair-nano-x2", condition_channels=1)
    with pytest.raises(ConfigError, match="from 0 to 8"):
        model_config("mambair-nano-denoise", condition_channels=9)


def test_small_models_fit_in_one_megabyte_at_four_bits() -> None:
    for name in list_models("mambair-nano-*"):
        assert 50_000 < count_parameters(named_configs()[name]) < 400_000


@pytest.mark.parametrize("scale", PRINTED_GFLOPS)
def test_flops_of_the_lightweight_networks(scale: int) -> None:
    report = count_flops(model_config(f"mambair-light-x{scale}"), 720 // scale, 1280 // scale)
    assert report.paper == report.total
    assert report.paper / 1e9 == pytest.approx(PRINTED_GFLOPS[scale], rel=5e-3)


def test_flops_of_the_scan() -> None:
    light = count_flops(model_config("mambair-light-x4"), 180, 320)
    classic = count_flops(model_config("mambair-classic-x4"), 180, 320)
    assert f"{light.scan / 1e9:.1f}" == "36.2"
    assert f"{classic.scan / 1e9:.0f}" == "433"


@pytest.mark.parametrize("variant", VARIANTS)
def test_counts_agree_with_the_layers_that_run(variant: str) -> None:
    config = VARIANTS[variant]
    model = build(config)
    counted = {"convolution": 0, "linear": 0, "normalization": 0, "gate": 0}

    def watch(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            attention = output.shape[1:3] == (1, 1)
            kind = "gate" if attention else "convolution"
            counted[kind] += output.numel() * module.weight[0].numel()
        elif isinstance(module, ChannelAttention):
            counted["gate"] += output.numel()
        elif isinstance(module, nn.Linear):
            counted["linear"] += output.numel() * module.in_features
        elif isinstance(module, nn.LayerNorm):
            counted["normalization"] += 5 * output.numel()
        elif isinstance(module, SS2D):
            pixels = output.shape[1] * output.shape[2]
            counted["linear"] += pixels * module.x_proj_weight.numel()
            counted["linear"] += pixels * module.dt_projs_weight.numel()

    for module in model.modules():
        module.register_forward_hook(watch)
    model(images(1, config.channels, 7, 10))
    report = count_flops(model, 7, 10)
    assert {kind: getattr(report, kind) for kind in counted} == counted
    assert report == count_flops(config, 7, 10)
    assert count_parameters(model) == count_parameters(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "sr"}, "^task must be 'sr-classic' or 'sr-light'.* got 'sr'"),
        ({"task": ["sr-light"]}, "^task must be"),
        ({"task": "jpeg"}, "^scale for jpeg must be 1, got 2"),
        ({"scale": 1}, "^scale for sr-light must be 2 or"),
        ({"scale": True, "task": "jpeg"}, "^scale for jpeg must be 1, got True"),
        ({"scale": 2.0}, "^scale for sr-light must be 2 or"),
        (
            {"task": "sr-classic", "scale": 5},
            "^scale for sr-classic must be 2 or 3 or 4 or 8, got 5",
        ),
        ({"channels": 4}, "^channels must be 1 or 3, got 4"),
        ({"dim": 3}, "^dim must be a whole number"),
        ({"dim": 16}, "^attention_reduction must be a whole number from 1 to 16, got 30"),
        ({"depths": ()}, "^depths must be 1 to 64 whole numbers"),
        ({"depths": 6}, "^depths must be"),
        ({"depths": (6, 0)}, "^depths must be"),
        ({"state_size": 0}, "^state_size must be"),
        ({"expansion": "1.2"}, "^expansion must be a number"),
        ({"cab": "cab"}, "^cab must be 'convolution' or"),
        ({"cab_reduction": 61}, "^cab_reduction must be a whole number from 1 to 60"),
        ({"cab": "depthwise"}, "^The option cab_reduction must be 1 with cab='depthwise'"),
        ({"group_convolution": "2conv"}, "^group_convolution must be '1conv' or '3conv'"),
        ({"image_range": 0}, "^image_range must be a number"),
        ({"drop_path": 1}, "^drop_path must be a number"),
        ({"windows": (1,)}, "Unknown model option 'windows'"),
    ],
)
def test_bad_values_name_the_field_and_the_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        MambaIRConfig.from_dict(options)
    assert "\n" not in str(error.value)


def test_overrides_belong_to_the_family() -> None:
    with pytest.raises(ConfigError, match="Unknown model option 'num_outputs'"):
        create_model("mambair-nano-x2", num_outputs=2)
    with pytest.raises(ConfigError, match="Unknown model option 'task'"):
        create_model("qmamba-nano", task="jpeg")


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([field.name for field in dataclasses.fields(MambaIRConfig)]), json_values
    )
)
def test_any_json_is_a_config_or_a_clear_error(values: dict[str, Any]) -> None:
    try:
        config = MambaIRConfig.from_dict(values)
    except ConfigError as error:
        assert len(str(error)) < 500
    else:
        assert MambaIRConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_ratio_gives_the_inner_channels_back() -> None:
    for dim in range(1, 200):
        for inner in range(1, 4 * dim, 7):
            assert int(expansion_of(inner, dim) * dim) == inner
    assert expansion_of(72, 60) == 1.2
    assert MICRO.inner_dim == 20
