"""`qmamba quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from qmamba.checkpoints import load, save_model
from qmamba.cli import app
from qmamba.inference.cost import Measurement, measured
from qmamba.models import MambaIR, ModelMetadata, QMamba, ScoreScale
from qmamba.quantization.quantizers import OfficialDLS
from tests.datasets.images import textured_image
from tests.models.micro_mambair import recording
from tests.quantization.networks import build
from tests.quantization.networks import images as random_images


def run(*arguments: str | float | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def quantize(source: Path | str, out: Path, *more: str | float | Path) -> Any:
    """What the file holds that the command wrote."""
    result = run("quantize", source, "-o", out, "--no-measure", *more)
    assert result.exit_code == 0, result.output
    return load(out)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "full.safetensors"
    training = {"data": "a few images", "figures": {"psnr": 40.0}}
    save_model(build("light"), path, metadata=ModelMetadata(name="full", training=training))
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(2):
        Image.fromarray(textured_image(seed, 24, 20)).save(folder / f"{seed}.png")
    return folder


def test_weights_are_quantized_after_training(weights: Path, images: Path, tmp_path: Path) -> None:
    small = quantize(
        weights, tmp_path / "small.safetensors", "--weight-bits", 3, "--activation-bits", 8,
        "--method", "lsq+", "--calibrate", images,
    )  # fmt: skip
    assert (small.quantization.weight_bits, small.quantization.activation_bits) == (3, 8)
    assert small.quantization.weight == "lsq+"
    assert small.metadata.name == "full-w3a8"
    record = small.metadata.training["quantization"]
    assert record["calibration"] == "16 crops of images" and record["bits"] == [3, 8]
    assert small.metadata.training["data"] == "a few images"
    assert "figures" not in small.metadata.training, "they are those of full precision"
    difference = (small(random_images(1)) - load(weights)(random_images(1))).detach().abs().mean()
    assert 0 < difference < 0.2


def test_size_time_and_memory_are_printed(
    weights: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small.safetensors"
    asked = []

    def pretend(source: str, side: int) -> Measurement:
        asked.append((source, side))
        return Measurement(30.0 / len(asked), 12.5)

    monkeypatch.setattr("qmamba.inference.cost.measured", pretend)
    result = run("quantize", weights, "-o", out, "--calibrate", images, "--size", 16)
    assert result.exit_code == 0, result.output
    assert asked == [(str(weights), 16), (str(out), 16)]
    lines = {line.split()[0]: line for line in result.stdout.splitlines()[1:]}
    assert "codes" in lines["size"] and "smaller" in lines["size"]
    assert "30.0 ms" in lines["time"] and "2.0x faster" in lines["time"]
    assert lines["peak"].count("12.5 MB") == 2


def test_a_network_is_measured_in_a_process_of_its_own(weights: Path) -> None:
    found = measured(str(weights), 8)
    assert found is not None and found.milliseconds > 0


def test_official_checkpoints_of_mambair(shared: Path, images: Path, tmp_path: Path) -> None:
    config, content = recording(shared, "light_x2")
    torch.save({"params": content["state_dict"]}, tmp_path / "official.pth")
    small = quantize(tmp_path / "official.pth", tmp_path / "m.safetensors", "--calibrate", images)
    assert isinstance(small, MambaIR) and small.config == config
    assert small.metadata is not None and small.metadata.name == "official-w4a4"


def test_official_checkpoints_of_q_mambair_are_packed_as_they_were_trained(
    shared: Path, tmp_path: Path
) -> None:
    record = torch.load(shared / "parity" / "qmambair_tiny_light_x2_4b.pt", weights_only=False)
    path = tmp_path / "net_g.pth"
    torch.save({"params": record["state_after_init"]}, path)
    trained: Any = load(path)
    assert any(isinstance(module, OfficialDLS) for module in trained.modules())
    assert trained.load_report.layout == "q-mambair" and trained.metadata.name == "net_g"
    small = quantize(path, tmp_path / "m.safetensors", "--rest", "fp32")
    assert small.quantization.compat and small.quantization.weight_bits == 4
    with torch.no_grad():
        actual = type(small).forward(small, record["input"])
        assert torch.equal(actual, trained(record["input"]))
    result = run("quantize", path, "-o", tmp_path / "other.safetensors", "--weight-bits", 2)
    assert result.exit_code == 2 and "leave --weight-bits out" in result.stderr
    record["state_after_init"].popitem()
    torch.save({"params": record["state_after_init"]}, path)
    result = run("quantize", path, "-o", tmp_path / "other.safetensors")
    assert result.exit_code == 2 and str(path) in result.stderr


def test_quality_models_stay_quality_models(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "quality.safetensors"
    score = ScoreScale("MOS", 0, 100, True, 50, 12)
    save_model(build("quality"), path, metadata=ModelMetadata(name="quality", score=score))
    small = quantize(path, tmp_path / "m.safetensors", "--calibrate", images)
    assert isinstance(small, QMamba)
    assert small.metadata is not None and small.metadata.score == score


def test_a_trained_run_is_packed_as_it_was_trained(
    weights: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    trained = run(
        "train-restoration", "--data", images, "--out", out, "--steps", 1, "--batch-size", 1,
        "--crop", 8, "--from", weights, "--task", "sr", "--quantize", "w2a4",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    small = quantize(out, tmp_path / "m.safetensors")
    written = load(out / "model.safetensors")
    for key, tensor in written.state_dict().items():
        assert torch.equal(small.state_dict()[key], tensor), key
    result = run("quantize", out, "-o", tmp_path / "other.safetensors", "--method", "lsq")
    assert result.exit_code == 2 and "leave --method out" in result.stderr


def test_a_packed_file_is_written_again(weights: Path, tmp_path: Path) -> None:
    first = quantize(weights, tmp_path / "a.safetensors")
    again = quantize(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--rest", "fp32")
    for key, tensor in first.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


def test_a_packed_input_is_shown_with_its_own_size(weights: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    quantize(weights, first)
    result = run("quantize", first, "-o", second, "--no-measure", "--rest", "fp32")
    shown = result.stdout.splitlines()[1].split()
    assert shown[1:5:2] == [f"{path.stat().st_size / 1024:.1f}" for path in (first, second)]


def test_nothing_is_overwritten_unasked(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = [tmp_path / "photo.jpg", tmp_path / "there.safetensors"]
    for path in mine:
        path.write_bytes(b"mine")
    (tmp_path / "link.safetensors").symlink_to(weights)
    before = weights.read_bytes()
    for out, problem in (
        (weights, "is the input itself"),
        ("full.safetensors", "is the input itself"),
        ("link.safetensors", "is the input itself"),
        ("photo.jpg", "ends in .safetensors"),
        ("there.safetensors", "--force replaces it"),
        ("absent/m.safetensors", "create it first"),
    ):
        force = ("--force",) if "there" not in str(out) else ()
        result = run("quantize", weights, "-o", out, "--no-measure", *force)
        assert result.exit_code == 2 and problem in result.stderr, (out, result.output)
    assert weights.read_bytes() == before
    assert all(path.read_bytes() == b"mine" for path in mine)
    quantize(weights, tmp_path / "there.safetensors", "--force")


def test_folders_that_are_no_runs(weights: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    result = run("quantize", images, "-o", out)
    assert result.exit_code == 2 and "it has no options.json; give" in result.stderr
    result = run("quantize", weights, "-o", out, "--calibrate", tmp_path / "absent")
    assert result.exit_code == 2 and "There is no folder" in result.stderr


def test_wrong_wishes_are_refused(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    for more, problem in (
        (("--rest", "int8"), "--rest is one of"),
        (("--weight-bits", 5), "2, 3, 4 or 8"),
        (("--method", "magic"), "magic"),
        (("--statistics", "magic"), "statistics must be"),
        (("--calibrate", tmp_path), "no image"),
    ):
        result = run("quantize", weights, "-o", out, "--no-measure", *more)
        assert result.exit_code == 2 and problem in result.stderr, (more, result.output)
    assert not out.exists()
