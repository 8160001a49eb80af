"""PyTorch checkpoints that claim more than their file holds."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from qmamba.checkpoints import load
from qmamba.checkpoints.safetensors_file import MOST_TENSORS
from qmamba.errors import CheckpointError
from tests.models.micro import MICRO, build


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as raised:
        load(path)
    assert path.name in str(raised.value)


@pytest.mark.parametrize("channels", [512, 65_536])
def test_tensors_of_stride_zero(channels: int, tmp_path: Path) -> None:
    state = {
        key: torch.zeros(1).as_strided((channels, channels), (0, 0)) if value.dim() == 2 else value
        for key, value in build(MICRO).state_dict().items()
    }
    path = tmp_path / "a.pth"
    torch.save(state, path)
    assert path.stat().st_size < 2**20
    refused(path, "claims .* bytes and has")


def test_many_views_of_one_storage(tmp_path: Path) -> None:
    whole = torch.zeros(2**18)
    path = tmp_path / "a.pth"
    torch.save({f"layers.{i}": whole.view(2**9, 2**9) for i in range(64)}, path)
    refused(path, "tensors claim")


def test_tied_weights_are_no_fault(tmp_path: Path) -> None:
    state = dict(build(MICRO).state_dict())
    first, second = "layers.0.blocks.0.norm.weight", "layers.0.blocks.0.norm2.weight"
    state[second] = state[first]
    torch.save(state, tmp_path / "a.pth")
    loaded = load(tmp_path / "a.pth").state_dict()
    assert torch.equal(loaded[first], loaded[second])


def test_compressed_archives(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(build(MICRO).state_dict(), buffer)
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(path, "w") as smaller:
        for entry in archive.infolist():
            smaller.writestr(entry.filename, archive.read(entry), zipfile.ZIP_DEFLATED)
    refused(path, "compressed archive")


def test_an_archive_without_a_directory(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"PK\x03\x04" + bytes(100))
    refused(tmp_path / "a.pth", "not a readable PyTorch checkpoint")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_too_many_tensors(suffix: str, tmp_path: Path) -> None:
    state = {f"layers.{i}.weight": torch.zeros(0) for i in range(MOST_TENSORS + 1)}
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    refused(path, "tensors")


def test_the_average_counts_before_the_last_weights(tmp_path: Path) -> None:
    last, average = build(MICRO).state_dict(), build(MICRO).state_dict()
    key = "layers.0.blocks.0.norm.weight"
    average[key] = torch.full_like(average[key], 3)
    torch.save({"params": last, "params_ema": average}, tmp_path / "a.pth")
    assert torch.equal(load(tmp_path / "a.pth").state_dict()[key], average[key])
