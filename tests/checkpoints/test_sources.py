"""Where weights come from: embedded names, paths and hub ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from qmamba.checkpoints import list_weights, load, save_model
from qmamba.checkpoints import sources as sources_module
from qmamba.checkpoints.sources import read_weights
from qmamba.errors import CheckpointError
from qmamba.models import ModelMetadata, QMamba
from tests.models.micro import MICRO, build


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one weights file, and a hub that must not be asked."""
    monkeypatch.chdir(tmp_path)
    metadata = ModelMetadata(name="micro")
    save_model(build(MICRO), "micro.safetensors", metadata=metadata, dtype=torch.float32)

    def refuse(*arguments: Any, **options: Any) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    return tmp_path


def test_paths(folder: Path) -> None:
    for source in ("micro.safetensors", "./micro.safetensors", folder / "micro.safetensors"):
        assert load(source).config == MICRO
    (folder / "owner").mkdir()
    (folder / "micro.safetensors").rename(folder / "owner" / "micro")
    assert load("owner/micro").config == MICRO


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.safetensors", "missing.safetensors is absent"),
        ("weights/missing.pth", "missing.pth is absent"),
        ("../missing", "missing is absent"),
        ("/missing/file", "file is absent"),
        (Path("owner/name"), "is absent"),
        (".", "name of the weights is empty"),
        ("./", "is not a file"),
        ("~nobody-of-that-name/x", "cannot be read"),
        ("x" * 5000, "cannot be read"),
        ("", "name of the weights is empty"),
        (Path(""), "name of the weights is empty"),
        ("nul\0", "Unknown weights"),
        ("qmamba-tiny", "There are no weights named 'qmamba-tiny', only an architecture"),
        ("owner/na me", "is absent"),
    ],
)
def test_what_is_not_there(folder: Path, source: str | Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        load(source)
    assert "\n" not in str(error.value)


def test_embedded_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = folder / "weights"
    weights.mkdir()
    (folder / "micro.safetensors").rename(weights / "micro-biq.safetensors")
    monkeypatch.setattr(sources_module.resources, "files", lambda package: folder)
    assert list_weights() == ["micro-biq"]
    model = load("micro-biq")
    assert model.config == MICRO
    assert model.metadata is not None
    assert model.metadata.source == "micro-biq"
    with pytest.raises(
        CheckpointError, match="Unknown weights 'micro-biq2'; did you mean micro-biq"
    ):
        load("micro-biq2")


def test_the_name_of_a_model_stands_for_its_only_embedded_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = folder / "weights"
    weights.mkdir()
    content = (folder / "micro.safetensors").read_bytes()
    (weights / "qmamba-mini-one.safetensors").write_bytes(content)
    monkeypatch.setattr(sources_module.resources, "files", lambda package: folder)
    found = sources_module.read_weights("qmamba-mini")
    assert (found.stem, found.source) == ("qmamba-mini-one", "qmamba-mini")
    with pytest.raises(CheckpointError, match="Unknown weights 'qmamba-m'"):
        load("qmamba-m")
    (weights / "qmamba-mini-two.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"only an architecture.*mini-one, qmamba-mini-two"):
        load("qmamba-mini")


def test_every_embedded_file_loads() -> None:
    for name in list_weights():
        model = load(name)
        assert model.metadata is not None
        assert (model.metadata.score is not None) == isinstance(model, QMamba)


def test_hub_ids(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def download(repository: str, file: str, *, revision: str | None = None) -> str:
        asked.append((repository, file, revision))
        return str(folder / "micro.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model = load("someone/q-mamba.v1")
    assert model.config == MICRO
    assert model.metadata is not None
    assert model.metadata.source == "someone/q-mamba.v1"
    load("someone/name/sub/weights.pth", revision="v2")
    assert asked == [
        ("someone/q-mamba.v1", "model.safetensors", None),
        ("someone/name", "sub/weights.pth", "v2"),
    ]


@pytest.mark.parametrize(
    "error", [OSError("no route to host\nmore"), ValueError(""), RuntimeError("500 Server Error.")]
)
def test_hub_errors_are_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: Any, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(CheckpointError, match="the hub did not give it either") as caught:
        read_weights("someone/name")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error
