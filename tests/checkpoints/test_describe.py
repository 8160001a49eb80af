"""Descriptions of weights files without their tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qmamba.checkpoints import describe, list_weights, load, save_model
from qmamba.errors import CheckpointError
from qmamba.models import ModelMetadata
from tests.models.micro_mambair import MICRO, build


def test_description_is_that_of_the_loaded_model(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_model(build(MICRO), path, metadata=ModelMetadata("a", training={"terms": "none"}))
    found = describe(path)
    assert found == load(path).metadata
    assert found.architecture == "mambair" and found.training == {"terms": "none"}


def test_embedded_weights_are_described() -> None:
    for name in list_weights():
        assert describe(name).sha256


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no safetensors file at all",
        (2).to_bytes(8, "little") + b"{}",
        (40).to_bytes(8, "little") + b'{"__metadata__": {"qmamba": "{}"}}      ',
        (17).to_bytes(8, "little") + b'{"__metadata__":3}',
        (1 << 60).to_bytes(8, "little") + b"[" * 100_000,
    ],
)
def test_files_without_a_description(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="no readable description"):
        describe(path)
    torch.save({}, path)
    with pytest.raises(CheckpointError, match="no readable description"):
        describe(path)
