"""Our metrics in the real pyiqa, and its metrics beside ours."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from qmamba.assess import Scorer
from qmamba.checkpoints import save_model
from qmamba.cli import app
from qmamba.errors import CheckpointError, ConfigError
from qmamba.models import ModelMetadata
from tests.assess.samples import pixels, tiny_model, write_image
from tests.interop.hosts import host

pyiqa = host("pyiqa")

from qmamba.interop.pyiqa import register, rival_metric


@pytest.fixture
def metric_name(weights: Path) -> str:
    (name,) = register({"qmamba-of-the-test": weights})
    return name


def test_embedded_weights_become_metrics() -> None:
    names = register()
    assert "qmamba-nano-biq2021" in names and names == register()
    assert set(names) <= set(pyiqa.list_models()) and set(names) <= set(pyiqa.list_models("NR"))
    assert not any(name.startswith("mambair") for name in names)


def test_paths_and_tensors(metric_name: str, scorer: Scorer, tmp_path: Path) -> None:
    metric = pyiqa.create_metric(metric_name, device=torch.device("cpu"))
    assert metric.lower_better is False and metric.score_range == "0, 100"
    path = write_image(tmp_path / "a.png", seed=1)
    expected = scorer(path).raw
    assert float(metric(str(path))) == pytest.approx(expected, rel=1e-5)
    batch = torch.stack([torch.from_numpy(pixels(40, 50, seed)) for seed in (1, 4)])
    batch = batch.permute(0, 3, 1, 2).float() / 255
    found = metric(batch)
    assert found.shape == (2, 1) and not found.requires_grad
    raws = [score.raw for score in scorer(list(batch))]
    assert found.flatten().tolist() == pytest.approx(raws, rel=1e-5)
    gray = batch[:, :1]
    assert metric(gray).equal(metric(gray.expand(-1, 3, -1, -1)))


def test_as_a_loss(metric_name: str, scorer: Scorer) -> None:
    loss = pyiqa.create_metric(metric_name, as_loss=True, device=torch.device("cpu"))
    image = (torch.from_numpy(pixels(40, 50, 1)).permute(2, 0, 1)[None] / 255).requires_grad_()
    value = loss(image)
    value.backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    assert float(value.detach()) == pytest.approx(
        float(scorer.score_tensor(image.detach())[0]), rel=1e-5
    )


def test_policy_is_an_option(metric_name: str, weights: Path) -> None:
    image = torch.from_numpy(pixels(40, 50, 1)).permute(2, 0, 1)[None] / 255
    metric = pyiqa.create_metric(metric_name, device=torch.device("cpu"), policy="native")
    expected = Scorer.from_pretrained(weights, policy="native")(image[0]).raw
    assert float(metric(image)) == pytest.approx(expected, rel=1e-5)


def test_refused_registrations(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pyiqa has a metric 'niqe' of its own"):
        register({"niqe": "qmamba-nano-biq2021"})
    path = tmp_path / "unrated.safetensors"
    save_model(tiny_model(), path, metadata=ModelMetadata("unrated"))
    with pytest.raises(CheckpointError, match="were not trained to score"):
        register({"unrated": path})


def test_their_command_knows_ours(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", seed=1)
    command = [sys.executable, "-m", "qmamba.interop.pyiqa", "qmamba-nano-biq2021", "-t", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    expected = Scorer.from_pretrained("qmamba-nano-biq2021")(path).raw
    printed = re.search(r"'mean': (?:np\.float64\()?([0-9.]+)", result.stdout)
    assert printed is not None and float(printed[1]) == pytest.approx(expected, rel=1e-5)


def test_rivals(tmp_path: Path) -> None:
    rival = rival_metric("piqe")
    assert not rival.higher_is_better
    path = write_image(tmp_path / "a.png", 96, 96, seed=1)
    expected = pyiqa.create_metric("piqe", device=torch.device("cpu"))(str(path))
    assert rival.score(path) == pytest.approx(float(expected))
    with pytest.raises(ConfigError, match="pyiqa has no metric 'nothing'"):
        rival_metric("nothing")
    with pytest.raises(ConfigError, match="'lpips' of pyiqa needs a reference image"):
        rival_metric("lpips")


def test_evaluate_beside_ours(weights: Path, tmp_path: Path) -> None:
    rows = [("path", "mos")]
    for seed in range(8):
        write_image(tmp_path / f"{seed}.png", 96, 96, seed=seed)
        rows.append((f"{seed}.png", str(1 + seed % 5)))
    with open(tmp_path / "r.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    arguments = ["evaluate", "--data", str(tmp_path / "r.csv"), "--scale", "1,5"]
    arguments += ["--model", str(weights), "--resamples", "20", "--metric", "pyiqa:piqe"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    last = result.stdout.splitlines()[-1]
    report = json.loads((tmp_path / "out.pyiqa-piqe.json").read_text())
    assert "pyiqa:piqe" in last and report["model"] == "pyiqa:piqe"
    assert f"{report['rows'][0]['figures']['srcc']['value']:.3f}" in last
    assert json.loads((tmp_path / "out.json").read_text())["model"] == "tiny"
    for wrong in ("niqe", "other:niqe", "pyiqa:"):
        result = CliRunner().invoke(app, [*arguments[:-1], wrong])
        assert result.exit_code == 2 and "A metric is written pyiqa:NAME" in result.stderr
