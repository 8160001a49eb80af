"""`qmamba export`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import qmamba.interop.onnx
from qmamba.checkpoints import save_model
from qmamba.cli import app
from qmamba.interop.onnx import Comparison, ExportReport
from qmamba.interop.onnx.simulation import SIMULATION
from qmamba.interop.onnx.verification import open_session
from qmamba.models import ModelMetadata
from tests.interop.onnx.samples import require_torch, restorer, scorer
from tests.models.micro_mambair import VARIANTS


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    model = scorer()
    assert model.metadata is not None
    save_model(model, path, metadata=model.metadata)
    return path


@require_torch
def test_the_command_shows_deviation_and_time(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    result = run(weights, "-o", path, "--static", "40x56", "--opset", "20")
    assert result.exit_code == 0, result.output
    assert f"{path}: sample" in result.stderr and "opset 20" in result.stderr
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["input", "deviation", "ONNX", "Runtime", "qmamba"]
    assert [row.split("  ")[0] for row in rows] == [f"{n} x 3 x 40 x 56" for n in (1, 2, 3)]
    assert all(row.endswith(("slower", "faster")) for row in rows)
    image = torch.rand(2, 3, 40, 56).numpy()
    assert open_session(path, threads=1).run(["score"], {"image": image})[0].shape == (2,)


@require_torch
def test_restorers_show_psnr(tmp_path: Path) -> None:
    model = restorer(VARIANTS["light-x2"])
    source = tmp_path / "x2.safetensors"
    save_model(model, source, metadata=ModelMetadata("x2", "mambair"))
    result = run(source, "-o", tmp_path / "x2.onnx")
    assert result.exit_code == 0, result.output
    assert "PSNR" in result.stdout and " dB" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out.bin"], "ends in .onnx"),
        (["-o", "out.onnx", "--opset", "5"], "opset is one of"),
        (["-o", "out.onnx", "--static", "40"], "--static is height x width"),
        (["-o", "out.onnx", "--precision", "bf16"], "precision is codes or fp32"),
        (["-o", "out.onnx", "--precision", "codes"], "this one is in full precision"),
        (["-o", "there.onnx"], "--force replaces it"),
        (["-o", "nowhere/out.onnx"], "does not exist"),
    ],
)
def test_wrong_usage(
    arguments: list[str],
    message: str,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.onnx").write_text("older")
    result = run(weights, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("error") == 1
    assert Path("there.onnx").read_text() == "older" and not Path("out.onnx").exists()


def test_a_missing_library_names_the_extra(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = run(weights, "-o", tmp_path / "out.onnx")
    assert result.exit_code == 2
    assert "pip install 'qmamba[onnx]'" in result.stderr


def test_a_simulation_is_called_one(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = Comparison((1, 3, 64, 64), 0.2, 51.4, 20.0, 10.0, 42.3)
    about = {"qmamba.model": "x2", "qmamba.simulation": SIMULATION.format(4, 4)}
    report = ExportReport(tmp_path / "x2.onnx", 2**20, "0" * 64, 21, (comparison,), about)
    monkeypatch.setattr(qmamba.interop.onnx, "export_onnx", lambda *_, **__: report)
    result = run(weights, "-o", tmp_path / "x2.onnx")
    assert result.exit_code == 0, result.output
    header, row, sentence = result.stdout.splitlines()
    assert "without rounding" in header and "deviation" not in header
    assert "51 dB" in row and "42 dB" in row and "2.0x slower" in row
    assert sentence.startswith("The file simulates W4A4:")
    assert sentence.endswith("its images are near those of the packed network, not equal to them.")
