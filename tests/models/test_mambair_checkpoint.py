"""Weights of MambaIR: official checkpoints, our own files, other tasks and scales."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qmamba.checkpoints import MismatchError, load, save_model
from qmamba.errors import CheckpointError
from qmamba.models import (
    MambaIR,
    MambaIRConfig,
    ModelMetadata,
    QMambaConfig,
    create_model,
    model_config,
)
from qmamba.models.mambair.conversion import infer_mambair_config
from tests.models import micro
from tests.models.micro_mambair import MICRO, RECORDINGS, VARIANTS, build, images, recording
from tests.models.published import FEBRUARY, MARCH, PARAMETERS

FIRST = "layers.0.residual_group.blocks.0."


def write(path: Path, state: Mapping[str, object], root: str = "params") -> Path:
    torch.save({root: state}, path)
    return path


def loaded(path: Path, **options: Any) -> MambaIR:
    model = load(path, **options)
    assert isinstance(model, MambaIR)
    return model


@pytest.mark.parametrize("name", RECORDINGS)
def test_recorded_weights_load_and_give_the_recorded_outputs(
    shared: Path, name: str, tmp_path: Path
) -> None:
    config, content = recording(shared, name)
    path = write(tmp_path / "official.pth", content["state_dict"])
    options = {} if config.image_range == 1 else {"image_range": config.image_range}
    model = loaded(path, **options)
    assert model.config == config
    assert not model.training
    report = model.load_report
    assert report is not None
    assert report.layout == "mambair"
    assert report.dropped == report.fresh == report.converted == ()
    with torch.no_grad():
        output = model(content["input"])
    torch.testing.assert_close(output, content["output"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_official_networks_are_inferred(name: str) -> None:
    with torch.device("meta"):
        state = create_model(name).state_dict()
    expected = "mambair-jpeg" if name == "mambair-denoise-gray" else name
    assert infer_mambair_config(state) == model_config(expected)


@pytest.mark.parametrize("options", [MARCH, FEBRUARY])
def test_older_generations_are_inferred(options: dict[str, Any]) -> None:
    with torch.device("meta"):
        state = create_model("mambair-light-x3", **options).state_dict()
    config = infer_mambair_config(state)
    assert config == MambaIRConfig(scale=3, **options)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_inferred(variant: str) -> None:
    assert infer_mambair_config(build(VARIANTS[variant]).state_dict()) == VARIANTS[variant]


def test_roots_and_prefixes(tmp_path: Path) -> None:
    state = build(MICRO).state_dict()
    other = build(MICRO, seed=1).state_dict()
    torch.save({"params": other, "params_ema": state}, tmp_path / "both.pth")
    prefixed = {"module." + key: tensor for key, tensor in state.items()}
    torch.save(prefixed, tmp_path / "bare.pth")
    paths = [
        tmp_path / "both.pth",
        tmp_path / "bare.pth",
        write(tmp_path / "ema.pth", state, "params_ema"),
    ]
    for path in paths:
        model = loaded(path)
        assert model.config == MICRO
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, state[key]), key
        assert model.metadata is not None
        assert model.metadata.architecture == "mambair"
        assert model.metadata.score is None
    report = loaded(paths[1]).load_report
    assert report is not None
    assert report.converted[0] == "module.conv_first.weight -> conv_first.weight"
    prefixed["conv_first.bias"] = state["conv_first.bias"]
    with pytest.raises(CheckpointError, match=r"holds conv_first.bias twice"):
        load(write(tmp_path / "twice.pth", prefixed))


def test_a_named_network_gets_its_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = write(tmp_path / "a.pth", create_model("mambair-nano-x2").state_dict())
    assert getattr(load(path).metadata, "name", None) == "mambair-nano-x2"
    unnamed = load(write(tmp_path / "mine.pth", build(MICRO).state_dict()))
    assert getattr(unnamed.metadata, "name", None) == "mine"


def test_another_scale_starts_from_the_same_body(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = build(MICRO).state_dict()
    with caplog.at_level(logging.WARNING, "qmamba"):
        model = loaded(write(tmp_path / "x2.pth", state), scale=4)
    assert model.config == MICRO.replace(scale=4)
    report = model.load_report
    assert report is not None
    assert report.fresh == ("upsample.0.weight", "upsample.0.bias") == report.dropped
    assert "left fresh 2 (upsample.0.weight, upsample.0.bias)" in caplog.text
    for key, tensor in model.state_dict().items():
        assert key in report.fresh or torch.equal(tensor, state[key])
    classic = VARIANTS["classic-x4"]
    path = write(tmp_path / "x4.pth", build(classic).state_dict())
    report = loaded(path, scale=2).load_report
    assert report is not None
    assert report.dropped == ("upsample.2.weight", "upsample.2.bias")
    assert report.fresh == ()
    report = loaded(path, task="denoise", scale=1).load_report
    assert report is not None
    assert report.fresh == ("conv_last.weight", "conv_last.bias")


def test_another_task_of_the_same_shapes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", build(VARIANTS["jpeg-gray"]).state_dict())
    model = loaded(path, task="denoise")
    assert model.config.task == "denoise"
    assert model.load_report is not None
    assert model.load_report.fresh == ()


@pytest.mark.parametrize("variant", VARIANTS)
def test_our_own_files(tmp_path: Path, variant: str) -> None:
    model = build(VARIANTS[variant].replace(image_range=2.0, drop_path=0.1))
    path = tmp_path / "micro.safetensors"
    metadata = ModelMetadata(name="micro", training={"data": "DIV2K", "terms": "research"})
    written = save_model(model, path, metadata=metadata, dtype=torch.float32)
    assert written.architecture == "mambair"
    again = loaded(path)
    assert again.config == model.config
    assert again.metadata == written
    batch = images(1, model.config.channels, 5, 6)
    with torch.no_grad():
        assert torch.equal(again(batch), model(batch))


def test_a_file_must_fit_exactly(tmp_path: Path) -> None:
    model = build(MICRO)
    state = model.state_dict()
    del state["upsample.0.bias"]
    with pytest.raises(MismatchError, match=r"missing: 1 \(upsample.0.bias\)"):
        load(write(tmp_path / "a.pth", state))
    extra = {**model.state_dict(), FIRST + "self_attention.xs_q.signed": torch.ones(1)}
    with pytest.raises(MismatchError, match=r"unexpected: 1 .*xs_q"):
        load(write(tmp_path / "b.pth", extra))


def test_the_families_do_not_mix(tmp_path: Path) -> None:
    restoring = write(tmp_path / "a.pth", build(MICRO).state_dict())
    with pytest.raises(CheckpointError, match="those of a mambair, and qmamba-nano is a qmamba"):
        load(restoring, name="qmamba-nano")
    rating = tmp_path / "b.pth"
    torch.save(micro.build(micro.MICRO).state_dict(), rating)
    assert isinstance(load(rating).config, QMambaConfig)
    with pytest.raises(CheckpointError, match="those of a qmamba, and mambair-jpeg is a mambair"):
        load(rating, name="mambair-jpeg")


def changed(**tensors: Tensor | None) -> dict[str, Tensor]:
    """The state of a small network with tensors added, replaced or, where None, removed."""
    state: dict[str, Tensor | None] = {**build(MICRO).state_dict(), **tensors}
    return {key: tensor for key, tensor in state.items() if tensor is not None}


CAB = FIRST + "conv_blk.cab."


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            changed(**{CAB + "6.weight": torch.zeros(3)}),
            r"none of the published forms .*cab\.\* it has 13 .*6.weight \(3,\)",
        ),
        (
            changed(**{CAB + "0.weight": torch.zeros(16, 16, 5, 5)}),
            r"none of the published forms .*0.weight \(16, 16, 5, 5\)",
        ),
        (
            {k: v for k, v in changed().items() if ".cab." not in k},
            r"none of the published forms .*it has 0",
        ),
        (
            changed(**{"conv_up3.weight": torch.zeros(1), "conv_last.weight": torch.zeros(1)}),
            r"none of the tasks .*it has 2 \(upsample, conv_last\)",
        ),
        ({k: v for k, v in changed().items() if "upsample" not in k}, r"none of the tasks"),
        (changed(**{"upsample.0.weight": torch.zeros(3, 16, 3, 3)}), "scale for sr-light must be"),
        (changed(**{"conv_first.weight": torch.zeros(16, 2, 3, 3)}), "channels must be 1 or 3"),
        (changed(**{"conv_first.weight": torch.zeros(16, 0, 3, 3)}), "not a MambaIR"),
        (changed(**{"conv_first.weight": torch.zeros(16)}), "has no axis 1"),
        (changed(**{CAB + "0.weight": torch.zeros(0, 16, 1, 1)}), "not a MambaIR"),
        (changed(**{FIRST + "self_attention.A_logs": None}), "A_logs is absent"),
        (
            changed(**{"layers.9.residual_group.blocks.9999.ln_1.weight": torch.zeros(1)}),
            "speak of 10003 blocks",
        ),
        (
            changed(**{"layers.3.residual_group.blocks.0.ln_1.weight": torch.zeros(1)}),
            "depths must",
        ),
        ({"layers.0.residual_group.layers.0.norm1.weight": torch.zeros(1)}, "is absent"),
    ],
)
def test_other_networks_are_refused_with_what_was_seen(
    tmp_path: Path, state: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(CheckpointError, match="not a MambaIR of a known kind") as error:
        load(write(tmp_path / "a.pth", state))
    assert error.match(message)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1500
