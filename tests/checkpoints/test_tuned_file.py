"""Tuned files: small, for one base only, and never trusted."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.testing import assert_close

from qmamba.assess import DEFAULT_WEIGHTS, Scorer
from qmamba.checkpoints import (
    is_tuned_file,
    load,
    load_tuned,
    load_tuned_model,
    save_model,
    save_tuned,
)
from qmamba.errors import CheckpointError, ConfigError
from qmamba.models import ModelMetadata, QMamba, create_model
from qmamba.prompts import TunedQMamba, TuningConfig, attach
from tests.assess.samples import POLICY, SCALE, pixels, save_tiny
from tests.models.micro import images, load_qmamba, qmamba_config
from tests.prompts.samples import TUNINGS, base_model, tuned_model

METADATA = ModelMetadata(
    name="tiny-tuned", score=dataclasses.replace(SCALE, name="other MOS"), policy=POLICY
)


def saved(folder: Path, name: str = "style & R", dtype: torch.dtype = torch.float32) -> Path:
    path = folder / "tuned.safetensors"
    save_tuned(tuned_model(base_model(), TUNINGS[name], moved=True), path, METADATA, dtype=dtype)
    return path


@pytest.mark.parametrize("name", TUNINGS)
@torch.no_grad()
def test_a_file_gives_the_model_back(tmp_path: Path, name: str) -> None:
    base, batch = base_model(), images(2, 3, 24, 40)
    model = tuned_model(base, TUNINGS[name], moved=True)
    written = save_tuned(model, tmp_path / "t.safetensors", METADATA, dtype=torch.float32)
    found = load_tuned(base_model(), tmp_path / "t.safetensors")
    assert torch.equal(found(batch), model(batch))
    assert found.tuning == model.tuning and found.base == model.base
    assert found.metadata == written and written.sha256 is not None
    assert not found.training and not any(p.requires_grad for p in found.parameters())


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    first = saved(tmp_path).read_bytes()
    assert saved(tmp_path).read_bytes() == first


def test_the_papers_prompts_take_eight_megabytes(tmp_path: Path) -> None:
    with torch.device("meta"):
        base = QMamba(qmamba_config("lqmamba-base"))
    model = attach(base, TuningConfig())
    assert model.prompts is not None
    model.prompts.to_empty(device="cpu")
    for parameter in model.prompts.parameters():
        torch.nn.init.zeros_(parameter)
    save_tuned(model, tmp_path / "style.safetensors", METADATA)
    size = (tmp_path / "style.safetensors").stat().st_size
    assert 2 * 3_830_808 < size < 2 * 3_830_808 + 10_000


def test_tunings_share_the_memory_of_their_base(tmp_path: Path) -> None:
    base, path = base_model(), saved(tmp_path)
    first, second = load_tuned(base, path).state_dict(), load_tuned(base, path).state_dict()
    own = [key for key in first if first[key].data_ptr() != second[key].data_ptr()]
    assert set(own) == set(load_tuned(base, path).trained_state())
    shared = [key for key, value in base.state_dict().items() if key not in own]
    assert len(shared) == len(base.state_dict()) - 2
    for key in shared:
        assert first[key].data_ptr() == base.state_dict()[key].data_ptr()


def test_another_base_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(CheckpointError, match=r"tuned on 'tiny-base' .* give the base"):
        load_tuned(base_model(seed=1), path)
    other = base_model()
    with torch.no_grad():
        other.layers[2].blocks[0].op.Ds[0] += 1e-3  # type: ignore[union-attr,index]
    with pytest.raises(CheckpointError, match="give the base that it was tuned on"):
        load_tuned(other, path)
    # The same tensors scan other windows.
    windows = QMamba(base_model().config.replace(windows=(1, 1, 1)))
    windows.load_state_dict(base_model().state_dict())
    with pytest.raises(CheckpointError, match="give the base that it was tuned on"):
        load_tuned(windows, path)
    with pytest.raises(CheckpointError, match="this base is a MambaIR"):
        load_tuned(create_model("mambair-nano-x2", dim=12, depths=(1,)), path)
    with pytest.raises(CheckpointError, match="this base is 'tiny-tuned'"):
        load_tuned(load_tuned(base_model(), path), path)


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    path, state = saved(tmp_path), torch.get_rng_state()
    load_tuned(base_model(), path)
    assert torch.equal(torch.get_rng_state(), state)


def test_whole_models_and_tuned_files_are_told_apart(tmp_path: Path) -> None:
    whole, tuned = save_tiny(tmp_path), saved(tmp_path)
    assert is_tuned_file(tuned)
    assert not is_tuned_file(whole)
    assert not is_tuned_file(tmp_path) and not is_tuned_file(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="holds a tuning of another model"):
        load(tuned)
    with pytest.raises(CheckpointError, match="holds a whole qmamba model"):
        load_tuned(base_model(), whole)


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    model = tuned_model(base_model(), TUNINGS["style"], moved=True)
    with pytest.raises(ConfigError, match="float16, bfloat16 or float32"):
        save_tuned(model, tmp_path / "t", METADATA, dtype=torch.int8)
    with pytest.raises(CheckpointError, match="nothing to save"):
        save_tuned(attach(base_model(), TuningConfig("none")), tmp_path / "t", METADATA)
    with torch.no_grad():
        next(iter(model.trained_state().values())).fill_(1e6)
    with pytest.raises(CheckpointError, match=r"not finite in 1 \(prompts.0"):
        save_tuned(model, tmp_path / "t", METADATA)
    with pytest.raises(CheckpointError, match="save_tuned"):
        save_model(model, tmp_path / "t", metadata=METADATA)
    assert list(tmp_path.iterdir()) == []


State = dict[str, Tensor]


def _more_components(state: State, text: dict[str, Any]) -> None:
    text["config"]["tuning"]["prompts"] = 1024


def _huge_prompts(state: State, text: dict[str, Any]) -> None:
    text["config"]["tuning"].update(width=65536, prompts=1024, size=[1024, 1024])


def _missing(state: State, text: dict[str, Any]) -> None:
    del state["prompts.2.gamma.weight"]


def _frozen_tensor(state: State, text: dict[str, Any]) -> None:
    state["layers.0.blocks.0.norm.weight"] = torch.zeros(8)


def _integers(state: State, text: dict[str, Any]) -> None:
    state["prompts.0.gamma.bias"] = torch.zeros(16, dtype=torch.int32)


def _not_a_number(state: State, text: dict[str, Any]) -> None:
    state["prompts.0.gamma.bias"][3] = torch.nan


def _no_base(state: State, text: dict[str, Any]) -> None:
    text["config"]["base"] = None


def _terminal_codes(state: State, text: dict[str, Any]) -> None:
    text["config"]["base"]["name"] = "\x1b[2J"
    text["config"]["base"]["weights_sha256"] = "0" * 64


def _digest_of_another_kind(state: State, text: dict[str, Any]) -> None:
    text["config"]["base"]["weights_sha256"] = "../../etc"


def _unknown_method(state: State, text: dict[str, Any]) -> None:
    text["config"]["tuning"]["method"] = "__class__"


def _no_tuning(state: State, text: dict[str, Any]) -> None:
    text["config"] = ["tuning"]


def _later_format(state: State, text: dict[str, Any]) -> None:
    text["format"] = 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_more_components, "of another shape: 9"),
        (_huge_prompts, "of another shape"),
        (_missing, "missing: 1"),
        (_frozen_tensor, r"unexpected: 1 \(layers.0.blocks.0.norm.weight"),
        (_integers, "int32"),
        (_not_a_number, "damaged: not finite"),
        (_no_base, "its base is None"),
        (_terminal_codes, r"tuned on '\\x1b\[2J'"),
        (_digest_of_another_kind, "its base is"),
        (_unknown_method, "method must be"),
        (_no_tuning, "its config is"),
        (_later_format, "install a newer qmamba"),
    ],
)
def test_hostile_files(
    tmp_path: Path, damage: Callable[[State, dict[str, Any]], None], message: str
) -> None:
    content = saved(tmp_path).read_bytes()
    length = int.from_bytes(content[:8], "little")
    text = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["qmamba"])
    state = safetensors.torch.load(content)
    damage(state, text)
    path = tmp_path / "hostile.safetensors"
    safetensors.torch.save_file(state, path, metadata={"qmamba": json.dumps(text)})
    with pytest.raises(CheckpointError, match=message):
        load_tuned(base_model(), path)


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 7, b"PK\x03\x04" + b"\x00" * 50, b"\xff" * 64, b"{" * 100]
)
def test_files_of_another_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    assert not is_tuned_file(path)
    with pytest.raises(CheckpointError, match="is not a tuned file"):
        load_tuned(base_model(), path)


def test_cut_off_files(tmp_path: Path) -> None:
    content = saved(tmp_path).read_bytes()
    for length in (20, 500, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.safetensors").write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="is not a tuned file"):
            load_tuned(base_model(), tmp_path / "cut.safetensors")


def tuned_tiny(folder: Path) -> tuple[Path, Path, TunedQMamba]:
    """A base on disk, a tuned file of it, and the tuned model."""
    weights = save_tiny(folder)
    tuning = TuningConfig(prompts=2, width=8, regressor=True)
    model = tuned_model(load_qmamba(weights), tuning, moved=True)
    save_tuned(model, folder / "tuned.safetensors", METADATA, dtype=torch.float32)
    return weights, folder / "tuned.safetensors", model


def test_a_scorer_with_a_tuned_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights, tuned, model = tuned_tiny(tmp_path)
    image = pixels()
    with caplog.at_level(logging.WARNING):
        scorer = Scorer.from_pretrained(weights, tuned=tuned)
    assert not caplog.records
    score = scorer(image)
    assert score.raw == Scorer(model, METADATA)(image).raw
    assert score.raw == Scorer(load_qmamba(weights), tuned=tuned)(image).raw
    assert score.raw != Scorer.from_pretrained(weights)(image).raw
    assert score.model == "tiny-tuned" and scorer.scale.name == "other MOS"
    assert score.sha256 == load_tuned_model(weights, tuned).metadata.sha256  # type: ignore[union-attr]


def test_gradients_through_a_tuned_scorer_agree(tmp_path: Path) -> None:
    *_, model = tuned_tiny(tmp_path)
    batch = torch.rand(1, 3, 48, 48, requires_grad=True)
    scorer = Scorer(model, METADATA)
    opinion = scorer.score_tensor(batch)
    opinion.sum().backward()
    assert batch.grad is not None and bool(batch.grad.abs().sum() > 0)
    assert_close(opinion[0].item(), scorer(batch.detach()[0]).raw, rtol=1e-4, atol=1e-2)


def test_the_embedded_base_is_found_by_its_digest(tmp_path: Path) -> None:
    embedded = load(DEFAULT_WEIGHTS)
    assert isinstance(embedded, QMamba)
    model = tuned_model(embedded, TuningConfig("probe"), moved=True)
    save_tuned(model, tmp_path / "probe.safetensors", METADATA)
    found = load_tuned_model(None, tmp_path / "probe.safetensors")
    assert found.base == model.base
    _, tuned, _ = tuned_tiny(tmp_path)
    with pytest.raises(CheckpointError, match="give that base as well"):
        load_tuned_model(None, tuned)
