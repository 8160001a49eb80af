"""`qmamba models` and `qmamba backends`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import qmamba.models
from qmamba.cli import app
from tests.restore.stand_ins import save_networks


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_models() -> None:
    result = run("models")
    assert result.exit_code == 0
    lines = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.strip()}
    assert lines["qmamba-tiny"] == ["qmamba-tiny", "27,993,409"]
    assert lines["lqmamba-base"] == ["lqmamba-base", "93,792,577"]


def test_flops_in_both_conventions() -> None:
    result = run("models", "*qmamba-[tsb]*[yle]", "--flops")
    cells = [line.split() for line in result.stdout.splitlines()[1:7]]
    assert [row[0] for row in cells] == [
        f"{family}-{size}" for family in ("qmamba", "lqmamba") for size in ("tiny", "small", "base")
    ]
    assert [row[2] for row in cells] == ["4.471", "8.715", "15.358", "4.446", "8.663", "15.302"]
    assert [row[3] for row in cells[3:]] == ["4.550", "8.833", "15.529"]


def test_flops_at_another_size() -> None:
    result = run("models", "qmamba-tiny", "--flops", "--size", "448x224")
    assert result.stdout.splitlines()[1].split()[2] == "8.942"
    assert "448 x 224" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zz*"], "No model or weights match 'zz*'"),
        (["--size", "32x32"], "add --flops"),
        (["--flops", "--size", "32"], "height x width"),
        (["--flops", "--size", "0x32"], "height x width"),
        (["--flop"], "--flop"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    result = run("models", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr and result.stdout == ""


def test_embedded_weights(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"tiny": weights, "tiny-denoise": save_networks(tmp_path)["denoise"]}
    describe = qmamba.checkpoints.describe
    monkeypatch.setattr("qmamba.checkpoints.list_weights", lambda: list(files))
    monkeypatch.setattr("qmamba.checkpoints.describe", lambda name: describe(files[name]))
    text = run("models", "tiny*").stdout
    assert "Embedded weights\n  tiny\n" in text
    assert "test MOS, 0 to 100, higher is better" in text
    assert "data    noise" in text and "terms   none" in text
    assert "  tiny-denoise\n    task    denoising, sigma 0 to 50\n    sha256  " in text


def test_backends() -> None:
    result = run("backends")
    assert result.exit_code == 0
    assert f"torch {torch.__version__}, {torch.get_num_threads()} threads" in result.stdout
    rows = [line.split(maxsplit=3) for line in result.stdout.splitlines()[2:]]
    live = {row[0]: row[1] for row in rows if row[2] == "live"}
    assert live["cpu"] in ("native", "chunked")
    assert {(row[0], row[1]) for row in rows} == {
        (device, name)
        for device in ("cpu", "cuda")
        for name in ("naive", "chunked", "native", "triton")
    }
    assert all(len(row) == 4 for row in rows)


def test_forced_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMAMBA_BACKEND", "naive")
    result = run("backends")
    assert "QMAMBA_BACKEND=naive" in result.stdout
    assert ["cpu", "naive", "live"] in [line.split()[:3] for line in result.stdout.splitlines()]
    monkeypatch.setenv("QMAMBA_BACKEND", "fastest")
    result = run("backends")
    assert result.exit_code == 2 and "fastest" in result.stderr


def test_version() -> None:
    assert run("--version").stdout == f"qmamba {qmamba.__version__}\n"


def test_unknown_command() -> None:
    result = run("scoer")
    assert result.exit_code == 2 and "scoer" in result.stderr


def test_networks_bound_to_a_size_have_no_figure_at_another() -> None:
    lines = run("models", "*t*-tiny", "--flops", "--size", "448x224").stdout.splitlines()
    assert lines[1].split() == ["vit-tiny", "5,524,609", "-", "-"]
    lines = run("models", "swin-tiny", "--flops").stdout.splitlines()
    assert lines[1].split() == ["swin-tiny", "27,520,123", "4.508", "4.508"]
