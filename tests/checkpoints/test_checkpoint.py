"""Our own weights files: what is kept, what is refused, and that nothing in them is executed."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from qmamba.checkpoints import MismatchError, load, save_model
from qmamba.errors import CheckpointError, ConfigError, DataError
from qmamba.models import ModelMetadata, QMamba, QMambaConfig, ScoreScale
from qmamba.models.metadata import decode, encode
from tests.models.micro import LOCAL_MICRO, MICRO, build, images, load_qmamba

SCALE = ScoreScale("BIQ2021 MOS", 0, 100, True, target_mean=55.5, target_std=12.25)
METADATA = ModelMetadata(
    name="lqmamba-micro",
    score=SCALE,
    policy={"name": "crops", "crop_size": 224, "crop_count": 10},
    training={"data": "BIQ2021", "terms": "research", "seeds": [1, 2]},
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[QMamba, Path]:
    """A model and the float32 file that was made from it."""
    model = build(LOCAL_MICRO)
    path = tmp_path_factory.mktemp("weights") / "micro.safetensors"
    save_model(model, path, metadata=METADATA, dtype=torch.float32)
    return model, path


def rewrite(source: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a weights file with other metadata."""
    content = source.read_bytes()
    length = int.from_bytes(content[:8], "little")
    description = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["qmamba"])
    changed = change(description)
    text = changed if isinstance(changed, str) else json.dumps(changed)
    state = safetensors.torch.load(content)
    target.write_bytes(safetensors.torch.save(state, metadata={"qmamba": text}))
    return target


def test_a_file_alone_rebuilds_its_model(saved: tuple[QMamba, Path]) -> None:
    model, path = saved
    loaded = load(path)
    assert loaded.config == model.config
    assert not loaded.training
    assert list(loaded.state_dict()) == list(model.state_dict())
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key]), key
    batch = images(1, 3, 64, 48)
    assert torch.equal(loaded(batch), model(batch))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    metadata = loaded.metadata
    assert metadata is not None
    assert metadata.sha256 is not None
    assert len(metadata.sha256) == 64
    assert metadata == dataclasses.replace(METADATA, sha256=metadata.sha256, source=str(path))
    report = loaded.load_report
    assert report is not None
    assert (report.layout, report.dropped, report.fresh) == ("qmamba", (), ())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_load_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    model = build(MICRO)
    save_model(model, tmp_path / "half.safetensors", metadata=METADATA, dtype=dtype)
    loaded = load(tmp_path / "half.safetensors")
    for key, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[key].to(dtype).float())


def test_same_content_same_bytes(tmp_path: Path) -> None:
    first = save_model(build(MICRO), tmp_path / "a.safetensors", metadata=METADATA)
    second = save_model(build(MICRO), tmp_path / "b.safetensors", metadata=METADATA)
    assert first.sha256 == second.sha256
    assert first.sha256 == getattr(load(tmp_path / "b.safetensors").metadata, "sha256", None)
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "b.safetensors"]


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    model = build(MICRO)
    path = tmp_path / "weights.safetensors"
    with pytest.raises(ConfigError, match="float16, bfloat16 or float32"):
        save_model(model, path, metadata=METADATA, dtype=torch.int8)
    with pytest.raises(ConfigError, match="plain JSON"):
        save_model(model, path, metadata=dataclasses.replace(METADATA, training={"x": object()}))
    with torch.no_grad():
        model.classifier.head.bias.fill_(1e6)
    with pytest.raises(CheckpointError, match=r"float16: not finite in 1 \(classifier.head.bias\)"):
        save_model(model, path, metadata=METADATA)
    assert not path.exists()
    with pytest.raises(DataError, match="does not exist"):
        save_model(model, tmp_path / "no" / "folder", metadata=METADATA, dtype=torch.float32)


def test_overrides_start_another_model(
    saved: tuple[QMamba, Path], caplog: pytest.LogCaptureFixture
) -> None:
    _, path = saved
    with caplog.at_level(logging.WARNING, "qmamba"):
        loaded = load_qmamba(path, num_outputs=4)
    assert loaded.config.num_outputs == 4
    assert loaded.load_report is not None
    assert loaded.load_report.dropped == ("classifier.head.bias", "classifier.head.weight")
    assert loaded.load_report.fresh == ("classifier.head.weight", "classifier.head.bias")
    assert "left fresh 2 (classifier.head.weight, classifier.head.bias)" in caplog.text
    assert loaded.metadata is not None
    assert (loaded.metadata.score, loaded.metadata.policy) == (None, None)
    moved = load(path, windows=(2, 2, 2, 2)).metadata
    assert moved is not None and moved.score is None
    kept = load(path, drop_path=0.3)
    assert kept.metadata is not None
    assert kept.metadata.score == SCALE
    assert kept.config.to_dict()["drop_path"] == 0.3


def test_lists_of_what_does_not_fit(saved: tuple[QMamba, Path], tmp_path: Path) -> None:
    _, path = saved
    state = safetensors.torch.load(path.read_bytes())
    del state["classifier.head.bias"]
    state["extra\x1b[31m"] = torch.zeros(1)
    state["patch_embed.0.weight"] = torch.zeros(8, 3, 5, 5)
    text = encode(LOCAL_MICRO.to_dict(), METADATA)
    broken = tmp_path / "broken.safetensors"
    safetensors.torch.save_file(state, broken, metadata={"qmamba": text})
    with pytest.raises(MismatchError, match="do not fit the model") as error:
        load(broken)
    assert error.value.missing == ("classifier.head.bias",)
    assert error.value.unexpected == ("extra\x1b[31m",)
    assert error.value.misshapen == ("patch_embed.0.weight: (8, 3, 5, 5), model (8, 3, 3, 3)",)
    assert "\x1b" not in str(error.value)


def test_long_lists_are_shortened_in_the_sentence_only(tmp_path: Path) -> None:
    state = {key: torch.zeros(()) for key in build(MICRO).state_dict()}
    path = tmp_path / "scalars.safetensors"
    text = encode(MICRO.to_dict(), METADATA)
    safetensors.torch.save_file(state, path, metadata={"qmamba": text})
    with pytest.raises(MismatchError) as error:
        load(path)
    assert len(error.value.misshapen) == len(state)
    assert len(str(error.value)) < 1000
    assert f"{len(state)} (" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: {**d, "format": 2}, "install a newer qmamba"),
        (
            lambda d: {**d, "architecture": "mamba"},
            "Unknown architecture 'mamba'; did you mean qmamba",
        ),
        (lambda d: {**d, "architecture": "mambair"}, "Unknown model option"),
        (lambda d: {**d, "architecture": 7}, "architecture must be text"),
        (lambda d: {**d, "surprise": 1}, "must have exactly the fields"),
        (lambda d: [d], "must have exactly the fields"),
        (lambda d: None, "must have exactly the fields"),
        (lambda d: "{", "not readable JSON"),
        (lambda d: "[" * 100_000, "not readable JSON"),
        (lambda d: {**d, "config": {**d["config"], "depths": [9, 9, 9, 9]}}, "more blocks"),
        (lambda d: {**d, "config": {**d["config"], "depths": [10**6] * 4}}, "depths must be"),
        (lambda d: {**d, "config": {**d["config"], "magic": 1}}, "Unknown model option"),
        (lambda d: {**d, "config": "qmamba"}, "must be a mapping"),
        (lambda d: {**d, "score": {**d["score"], "scale": [5, 1]}}, "rise from low to high"),
        (lambda d: {**d, "score": {**d["score"], "scale": "01"}}, r"must be \[low, high\]"),
        (lambda d: {**d, "score": {**d["score"], "target_std": 0}}, "must be positive"),
        (lambda d: {**d, "score": {**d["score"], "target_mean": 1e999}}, "finite number"),
        (lambda d: {**d, "score": {**d["score"], "target_mean": 10**400}}, "finite number"),
        (lambda d: {**d, "score": {**d["score"], "higher_is_better": "yes"}}, "true or false"),
        (lambda d: {**d, "score": 3}, "exactly the fields"),
        (lambda d: {**d, "policy": "crops"}, "mapping with a name"),
        (lambda d: {**d, "policy": {"name": 1}}, "mapping with a name"),
        (lambda d: {**d, "training": []}, "training must be a mapping"),
    ],
)
def test_metadata_of_wrong_types(
    saved: tuple[QMamba, Path], tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    path = rewrite(saved[1], tmp_path / "changed.safetensors", change)
    with pytest.raises(CheckpointError, match=message) as error:
        load(path)
    assert len(str(error.value)) < 1000


def test_files_of_others_and_damaged_files(saved: tuple[QMamba, Path], tmp_path: Path) -> None:
    content = saved[1].read_bytes()
    path = tmp_path / "file.safetensors"
    state = safetensors.torch.load(content)
    text = encode(LOCAL_MICRO.to_dict(), METADATA)

    def refused(content: bytes, message: str) -> None:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            load(path)

    refused(b"", "neither a safetensors file nor")
    refused(b"seven b", "neither a safetensors file nor")
    refused(content[:-1], "not a readable safetensors")
    refused(content[:1000], "not a readable safetensors")
    refused(struct.pack("<Q", 2**60) + content[8:], "not a readable safetensors")
    refused(safetensors.torch.save(state), "carries no qmamba metadata")
    whole = {**state, "classifier.head.bias": torch.zeros(1, dtype=torch.int64)}
    refused(safetensors.torch.save(whole, {"qmamba": text}), "not a dense floating-point tensor")
    damaged = {**state, "classifier.head.bias": torch.full((1,), torch.nan)}
    refused(safetensors.torch.save(damaged, {"qmamba": text}), "damaged: not finite in 1")


@settings(max_examples=100, deadline=None)
@given(
    start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x10\0\0\0\0\0\0\0{"]),
    rest=st.binary(max_size=200),
)
def test_random_bytes_are_refused(
    tmp_path_factory: pytest.TempPathFactory, start: bytes, rest: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.bin"
    path.write_bytes(start + rest)
    with pytest.raises(CheckpointError) as error:
        load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no state dict"),
        ({"weight": torch.zeros(2)}, "is not a VMamba"),
    ],
)
def test_errors_name_the_file(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"other.pth cannot be read: .*{message}"):
        load(path)


def test_foreign_pickles_are_refused_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(pickle.dumps({"a": [1]}, protocol=4))
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        load(path)
    assert not recwarn.list


class Bomb:
    """A pickle that would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_is_never_run(tmp_path: Path) -> None:
    bomb = tmp_path / "exploded"
    torch.save({"model": {"a": Bomb(bomb)}}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"model": Bomb(bomb)}, protocol=2))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(CheckpointError, match=r"more than tensors|not a readable"):
            load(tmp_path / name)
    assert not bomb.exists()


def test_devices(saved: tuple[QMamba, Path]) -> None:
    assert load(saved[1], device=torch.device("cpu")).config == LOCAL_MICRO
    with pytest.raises(ConfigError, match="'abacus' cannot be used here"):
        load(saved[1], device="abacus")


def test_metadata_is_a_value() -> None:
    config, metadata = decode(encode(MICRO.to_dict(), METADATA))
    assert QMambaConfig.from_dict(config) == MICRO
    assert metadata == METADATA
    bare = ModelMetadata(name="x")
    assert decode(encode(MICRO.to_dict(), bare))[1] == bare
    assert_close(torch.tensor(SCALE.to_dict()["scale"]), torch.tensor([0.0, 100.0]))
    with pytest.raises(ConfigError, match="must be a ScoreScale"):
        ModelMetadata(name="x", score=SCALE.to_dict())  # type: ignore[arg-type]
