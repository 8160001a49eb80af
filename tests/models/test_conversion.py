"""Official VMamba checkpoints become QMamba and LQMamba."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qmamba.checkpoints import MismatchError, load
from qmamba.errors import CheckpointError, ConfigError
from qmamba.models import Network, QMambaConfig, create_model, model_config
from qmamba.models.qmamba import conversion as rules
from qmamba.models.qmamba.conversion import (
    convert_vmamba,
    file_depths,
    infer_config,
    surplus_blocks,
)
from tests.models.micro import (
    LOCAL_MICRO,
    MICRO,
    build,
    images,
    load_qmamba,
    qmamba_config,
    recording,
)

IMAGENET = MICRO.replace(num_outputs=1000)


@pytest.fixture
def source() -> dict[str, Tensor]:
    """The state dict of a VMamba with an ImageNet head."""
    return build(IMAGENET).state_dict()


def write(path: Path, state: Mapping[str, object], **others: object) -> Path:
    torch.save({"model": state, **others}, path)
    return path


def same(model: Network, state: Mapping[str, Tensor]) -> bool:
    """Whether all tensors of the backbone are those of ``state``."""
    return all(
        torch.equal(tensor, state[key])
        for key, tensor in model.state_dict().items()
        if not key.startswith("classifier.head") and "multi_scan" not in key
    )


def test_a_public_checkpoint_becomes_a_backbone_with_a_fresh_head(
    tmp_path: Path, source: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "vssm_micro.pth", source, epoch=262, max_accuracy=82.5)
    with caplog.at_level(logging.WARNING, "qmamba"):
        model = load(path)
    assert model.config == MICRO
    assert same(model, source)
    assert not model.training
    report = model.load_report
    assert report is not None
    assert report.layout == "vmamba"
    assert report.dropped == report.fresh == ("classifier.head.weight", "classifier.head.bias")
    assert "dropped 2 (classifier.head.weight, classifier.head.bias)" in caplog.text
    assert model.metadata is not None
    assert model.metadata.name == "vssm_micro"
    assert model.metadata.score is None
    assert model.metadata.source == str(path)


def test_the_imagenet_head_can_be_kept(tmp_path: Path, source: dict[str, Tensor]) -> None:
    model = load_qmamba(write(tmp_path / "a.pth", source), num_outputs=1000)
    assert torch.equal(model.classifier.head.weight, source["classifier.head.weight"])
    assert model.load_report is not None
    assert model.load_report.dropped == ()


def test_recorded_weights_load_and_give_the_recorded_outputs(shared: Path, tmp_path: Path) -> None:
    _, content = recording(shared, "vmamba_micro")
    model = load(write(tmp_path / "micro.pth", content["state_dict"]), num_outputs=3)
    case = content["cases"][-1]
    torch.testing.assert_close(model(case["input"]), case["output"], rtol=1e-4, atol=1e-4)


def test_lqmamba_starts_from_vmamba_weights(tmp_path: Path, source: dict[str, Tensor]) -> None:
    path = write(tmp_path / "a.pth", source)
    model = load(path, windows=(8, 4, 2, 2), route_gate=True)
    assert model.config == LOCAL_MICRO
    assert same(model, source)
    assert model.load_report is not None
    gates = [key for key in model.load_report.fresh if ".multi_scan.attn." in key]
    assert len(gates) == 5 * 6
    assert len(model.load_report.fresh) == 5 * 6 + 2
    neutral = load_qmamba(path, route_gate=True)
    with torch.no_grad():
        for name, parameter in neutral.named_parameters():
            if "channel_select" in name:
                parameter.zero_()
        neutral.classifier.head.weight.fill_(0.1)
        plain = load_qmamba(path)
        plain.classifier.head.weight.fill_(0.1)
        batch = images(1, 3, 64, 48)
        torch.testing.assert_close(neutral(batch), plain(batch), rtol=1e-4, atol=1e-4)


def test_the_surplus_block_of_the_public_tiny_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = MICRO.replace(depths=(1, 1, 3, 1))
    state = build(deep).state_dict()
    path = write(tmp_path / "deep.pth", state)
    config = load(path).config
    assert isinstance(config, QMambaConfig) and config.depths == (1, 1, 3, 1)
    monkeypatch.setitem(rules.PUBLISHED_CUTS, (deep.dims, deep.depths), (1, 1, 2, 1))
    model = load(path)
    assert model.config == MICRO
    assert same(model, state)
    assert model.load_report is not None
    assert len(model.load_report.dropped) == 18
    assert all(key.startswith("layers.2.blocks.2.") for key in model.load_report.dropped)
    assert load(path, depths=(1, 1, 3, 1)).config == deep
    with pytest.raises(MismatchError) as error:
        load(path, depths=(1, 1, 1, 1))
    assert len(error.value.unexpected) == 2 * 18


def test_the_public_tiny_fits_the_named_models() -> None:
    with torch.device("meta"):
        state = create_model("qmamba-tiny", depths=(2, 2, 5, 2), num_outputs=1000).state_dict()
    assert len(state) == 222
    assert file_depths(state) == (2, 2, 5, 2)
    assert infer_config(state) == model_config("qmamba-tiny")
    surplus = surplus_blocks(state, qmamba_config("lqmamba-tiny"))
    assert len(surplus) == 18
    assert all(key.startswith("layers.2.blocks.4.") for key in surplus)
    assert surplus_blocks(state, qmamba_config("qmamba-tiny", depths=(2, 2, 3, 2))) == ()


@pytest.mark.parametrize("name", ["qmamba-small", "qmamba-base"])
def test_the_public_small_and_base_are_inferred(name: str) -> None:
    with torch.device("meta"):
        state = create_model(name, num_outputs=1000).state_dict()
    assert len(state) == 402
    assert infer_config(state) == model_config(name)


def test_other_builds_of_vmamba_are_converted(tmp_path: Path, source: dict[str, Tensor]) -> None:
    old: dict[str, Tensor] = {}
    for key, tensor in source.items():
        if key.endswith(("in_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight")):
            tensor = tensor[:, :, None, None]
        key = key.replace(".op.", ".self_attention.")
        key = key.replace("classifier.norm", "norm").replace("classifier.head", "head")
        key = key.replace("patch_embed.0", "patch_embed.proj")
        key = key.replace("patch_embed.2", "patch_embed.norm")
        if ".blocks." in key:
            key = key.replace(".norm.", ".ln_1.")
        old["module.backbone." + key] = tensor
    old["backbone.outnorm0.weight"] = torch.ones(16)
    model = load(write(tmp_path / "old.pth", old))
    assert model.config == MICRO
    assert same(model, source)
    assert model.load_report is not None
    assert "backbone.outnorm0.weight" in model.load_report.dropped
    assert any("-> patch_embed.0.weight" in line for line in model.load_report.converted)
    assert len(model.load_report.converted) == len(source)


def test_a_backbone_without_classifier(tmp_path: Path, source: dict[str, Tensor]) -> None:
    backbone = {key: value for key, value in source.items() if not key.startswith("classifier")}
    torch.save(backbone, tmp_path / "backbone.pth")
    model = load(tmp_path / "backbone.pth")
    assert model.load_report is not None
    assert model.load_report.fresh == (
        "classifier.norm.weight",
        "classifier.norm.bias",
        "classifier.head.weight",
        "classifier.head.bias",
    )


def test_a_name_decides_the_model(tmp_path: Path, source: dict[str, Tensor]) -> None:
    path = write(tmp_path / "a.pth", source)
    with pytest.raises(MismatchError) as error:
        load(path, name="lqmamba-nano")
    assert "patch_embed.0.weight: (8, 3, 3, 3), model (16, 3, 3, 3)" in error.value.misshapen
    with pytest.raises(ConfigError, match="Unknown model 'lqmamba'"):
        load(path, name="lqmamba")
    dims, depths = list(MICRO.dims), list(MICRO.depths)
    model = load(path, name="lqmamba-nano", dims=dims, depths=depths)
    assert model.config == LOCAL_MICRO
    assert model.metadata is not None
    assert model.metadata.name == "lqmamba-nano"


def test_kinds_of_vmamba_that_do_not_fit(tmp_path: Path, source: dict[str, Tensor]) -> None:
    gated = dict(source)
    for key, tensor in source.items():
        if key.endswith("in_proj.weight"):
            gated[key] = torch.cat([tensor, tensor])
    with pytest.raises(MismatchError) as error:
        load(write(tmp_path / "z_gate.pth", gated))
    assert len(error.value.misshapen) == 5
    with pytest.raises(MismatchError, match=r"missing: 1 .classifier.norm.bias"):
        load(
            write(
                tmp_path / "b.pth", {k: v for k, v in source.items() if "norm.bias" not in k[:20]}
            )
        )
    half = dict(source)
    half["layers.0.blocks.0.op.multi_scan.attn.norm.weight"] = torch.ones(32)
    with pytest.raises(MismatchError, match="missing: 29"):
        load(write(tmp_path / "c.pth", half))


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        3,
        {"model": {}},
        {"model": 3},
        {"model": {"a": 1}},
        {1: torch.zeros(1)},
        {"optimizer": {}},
    ],
)
def test_files_without_a_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "state",
    [
        {"conv1.weight": torch.zeros(64, 3, 7, 7)},
        {"layers.0.blocks.0.norm.weight": torch.zeros(())},
        {"layers.9999.blocks.9999.norm.weight": torch.zeros(96)},
        {"layers.0.blocks.9999.norm.weight": torch.zeros(96)},
        {"layers.0.blocks.0.norm.weight": torch.zeros(0)},
    ],
)
def test_other_networks_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match="not a VMamba of the kind"):
        load(write(tmp_path / "a.pth", state))


def test_one_place_claimed_twice() -> None:
    with pytest.raises(CheckpointError, match=r"holds classifier.head.bias twice.*head.bias"):
        convert_vmamba({"classifier.head.bias": torch.zeros(1), "head.bias": torch.zeros(1)})


def test_tensors_that_share_memory_are_separated(tmp_path: Path, source: dict[str, Tensor]) -> None:
    tied = dict(source)
    tied["layers.2.blocks.1.norm.weight"] = tied["layers.2.blocks.0.norm.weight"]
    model = load(write(tmp_path / "a.pth", tied), num_outputs=1000)
    first, second = (model.get_parameter(f"layers.2.blocks.{j}.norm.weight") for j in (0, 1))
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()


def test_weights_that_are_not_plain_tensors(tmp_path: Path, source: dict[str, Tensor]) -> None:
    sparse = {**source, "classifier.norm.bias": source["classifier.norm.bias"].to_sparse()}
    with pytest.raises(CheckpointError, match=r"classifier.norm.bias .* not a dense"):
        load(write(tmp_path / "a.pth", sparse))


def test_state_size_and_widths_are_read_from_the_shapes() -> None:
    config = QMambaConfig(
        dims=(16, 24), depths=(1, 2), windows=(1, 1), state_size=3, expansion=1.5, mlp_ratio=2
    )
    assert infer_config(build(config).state_dict()) == config
