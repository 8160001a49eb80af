"""Configurations: what they accept, what they say, and the names they are found under."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmamba.errors import ConfigError
from qmamba.models import (
    NetworkConfig,
    QMambaConfig,
    create_model,
    list_models,
    model_config,
    named_configs,
)
from tests.models.micro import LOCAL_MICRO, qmamba_config
from tests.models.values import json_values


@pytest.mark.parametrize("config", [*named_configs().values(), LOCAL_MICRO.replace(drop_path=0.1)])
def test_round_trip_through_json(config: NetworkConfig) -> None:
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_configs_are_values() -> None:
    config = QMambaConfig(dims=[16, 32], depths=[1, 1], windows=[1, 1])  # type: ignore[arg-type]
    assert config == QMambaConfig(dims=(16, 32), depths=(1, 1), windows=(1, 1))
    assert hash(config) == hash(config.replace())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_outputs = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dims", (15, 32, 64, 128)),
        ("dims", (16, 32, 64, "128")),
        ("dims", ()),
        ("dims", 16),
        ("dims", "1234"),
        ("dims", (2, 4, 8, 16)),
        ("dims", (10**9, 32, 64, 128)),
        ("depths", (2, 2, 0, 2)),
        ("depths", (2, 2, 4)),
        ("depths", (2, 2, 10**9, 2)),
        ("depths", (True, 2, 4, 2)),
        ("windows", (8, 4, 2)),
        ("windows", (8, 4, 2, 0)),
        ("windows", (8.0, 4, 2, 2)),
        ("windows", None),
        ("route_gate", 1),
        ("num_outputs", 0),
        ("num_outputs", 1.0),
        ("state_size", 0),
        ("expansion", float("nan")),
        ("expansion", 0),
        ("mlp_ratio", "4"),
        ("mlp_ratio", 1e9),
        ("drop_path", 1.0),
        ("drop_path", -0.1),
        ("drop_path", None),
    ],
)
def test_bad_values_name_the_field_and_the_value(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^(The option )?{field} must .*got") as error:
        QMambaConfig(**{"dims": (16, 32, 64, 128), field: value})
    assert "\n" not in str(error.value)


def test_the_gate_needs_eight_channels() -> None:
    with pytest.raises(ConfigError, match="at least 8 inner channels"):
        QMambaConfig(dims=(6,), depths=(1,), windows=(1,), route_gate=True, expansion=1)


def test_unknown_fields_are_errors() -> None:
    with pytest.raises(ConfigError, match="Unknown model option 'window'; did you mean windows"):
        QMambaConfig.from_dict({"window": [1]})
    with pytest.raises(ConfigError, match="must be a mapping, got list"):
        QMambaConfig.from_dict([])  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([field.name for field in dataclasses.fields(QMambaConfig)]), json_values
    )
)
def test_any_json_is_a_config_or_a_clear_error(values: dict[str, Any]) -> None:
    try:
        config = QMambaConfig.from_dict(values)
    except ConfigError as error:
        assert len(str(error)) < 500
    else:
        assert QMambaConfig.from_dict(config.to_dict()) == config


def test_registry() -> None:
    assert list_models("lq*") == [
        "lqmamba-nano",
        "lqmamba-tiny",
        "lqmamba-small",
        "lqmamba-base",
    ]
    assert len(list_models("*qmamba*")) == 12
    assert len(list_models()) == 12 + 16 + 18 + 2 + 11
    assert list_models("mobilenet*") == []
    assert qmamba_config("lqmamba-base").windows == (8, 4, 2, 2)
    assert model_config("lqmamba-nano").replace(windows=(1,) * 4, route_gate=False) == (
        model_config("qmamba-nano")
    )


def test_create_model_with_overrides() -> None:
    model = create_model("qmamba-nano", depths=(1, 1, 1, 1), num_outputs=5)
    assert model.config == model_config("qmamba-nano").replace(depths=(1, 1, 1, 1), num_outputs=5)
    assert model.training
    assert model.metadata is None


def test_unknown_model_and_option() -> None:
    with pytest.raises(ConfigError, match="Unknown model 'qmamba-tinny'; did you mean qmamba-tiny"):
        create_model("qmamba-tinny")
    with pytest.raises(ConfigError, match=r"Unknown model option 'deeps'.*depths.*route_gate"):
        create_model("qmamba-tiny", deeps=(1, 1, 1, 1))
