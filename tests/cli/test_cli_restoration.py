"""`qmamba train-restoration` and `qmamba evaluate-restoration`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from qmamba.checkpoints import load, save_model
from qmamba.checkpoints.sources import read_weights
from qmamba.cli import app
from qmamba.models import MambaIR, ModelMetadata
from qmamba.ops.native import library
from qmamba.restore.degradations import Degradation
from qmamba.training.restoration.initial_network import restoration_network
from tests.datasets.images import textured_image


def run(*arguments: str | float | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, seeds in (("clean", range(3)), ("Set5", range(5, 7)), ("Classic5", range(8, 9))):
        (folder / name).mkdir()
        for seed in seeds:
            pixels = textured_image(seed, 40, 44)
            pixels = pixels[..., 0] if name == "Classic5" else pixels
            Image.fromarray(pixels).save(folder / name / f"{name}{seed}.png")
    return folder


def train(images: Path, out: Path, *more: str | float | Path) -> Result:
    return run(
        "train-restoration", "--data", images / "clean", "--out", out, "--steps", 2,
        "--batch-size", 1, "--crop", 8, *more,
    )  # fmt: skip


def tiny(path: Path) -> Path:
    """Weights of a small network for a scale of 2, called as the file."""
    model = restoration_network(
        "sr", name="mambair-nano-x2", dim=12, depths=(1,), attention_reduction=4
    )
    metadata = ModelMetadata(
        name=path.stem,
        architecture="mambair",
        training={"degradation": Degradation("sr", scale=2).to_dict()},
    )
    save_model(model, path, metadata=metadata)
    return path


def test_training_and_going_on(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "denoiser"
    result = train(images, out, "--task", "denoise", "--sigma", "10-30", "--learning-rate", 1e-3)
    assert result.exit_code == 0, result.output
    assert "denoising, sigma 10 to 30: 2 images train, 1 validate" in result.stderr
    record = json.loads((out / "options.json").read_text())
    assert record["training"]["betas"] == [0.9, 0.99] and record["training"]["weight_decay"] == 0
    network = load(out / "model.safetensors")
    assert isinstance(network, MambaIR) and network.metadata is not None
    assert network.metadata.name == "denoiser"
    assert network.metadata.training["data"] == "2 images of clean"
    assert network.metadata.training["degradation"]["sigma"] == [10, 30]

    again = train(images, out, "--task", "denoise", "--sigma", "10-30", "--learning-rate", 1e-3)
    assert again.exit_code == 2 and "--resume" in again.stderr
    more = ("--task", "denoise", "--sigma", "10-30", "--learning-rate", 1e-3, "--resume")
    assert train(images, out, *more).exit_code == 0

    # The strength of the noise is that of the weights.
    tuned = train(images, tmp_path / "tuned", "--from", out / "model.safetensors")
    assert tuned.exit_code == 0, tuned.output
    assert "denoising, sigma 10 to 30" in tuned.stderr


def test_few_bits_from_full_precision(images: Path, tmp_path: Path) -> None:
    weights, few = tiny(tmp_path / "full.safetensors"), tmp_path / "few"
    result = train(
        images, few, "--from", weights, "--quantize", "w4a2", "--method", "rfa", "--seed", 3
    )
    assert result.exit_code == 0, result.output
    record = json.loads((few / "options.json").read_text())
    assert record["quantization"]["activation"] == "static"
    assert record["from"]["source"] == str(weights)
    packed = few / "model.safetensors"
    assert packed.stat().st_size < weights.stat().st_size
    measured = run("evaluate-restoration", "--data", images, "--model", packed, "--model", weights)
    assert measured.exit_code == 0, measured.output
    lines = [line.split() for line in measured.stdout.splitlines()]
    assert [line[0] for line in lines] == ["method", "bicubic", "few", "full"]
    assert lines[2][3] == "4/2" and lines[2][4] == f"{packed.stat().st_size:,}"
    assert float(lines[2][6]) < float(lines[3][6])


def test_real_damage_from_packed_weights(images: Path, tmp_path: Path) -> None:
    """The values of the codes start a network that is told of the noise."""
    out = tmp_path / "blind"
    start = ("--from", "mambair-nano-denoise-w4a4", "--learning-rate", 1e-4)
    result = train(images, out, "--real", *start, "--quantize", "w4a4")
    assert result.exit_code == 0, result.output
    assert "blind denoising, sigma 0 to 50: 2 images train" in result.stderr
    network = load(out / "model.safetensors")
    assert isinstance(network, MambaIR) and network.metadata is not None
    assert network.config.condition_channels == 1
    assert network.metadata.training["degradation"]["real"] is True
    weights = ("--model", out / "model.safetensors", "--sets", "Set5", "--sigma", 9)
    measured = run("evaluate-restoration", "--data", images, *weights)
    assert measured.exit_code == 0, measured.output
    assert "noisy input" in measured.stdout and "blind" in measured.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "Say what is learned"),
        (("--task", "sr", "--sigma", "25"), "no sigma"),
        (("--task", "sr", "--method", "lsq"), "--quantize"),
        (("--task", "sr", "--quantize", "4"), "w4a4"),
        (("--task", "sr", "--loss", "l2"), "l1"),
        (("--task", "sr", "--model", "mambair-nano-jpeg"), "for jpeg and not for sr"),
        (("--task", "denoise", "--gray", "--real"), "leave gray out"),
        (("--task", "sr", "--crop", "0"), "8 to 1024"),
        (("--task", "sr", "--memory", "-1"), "--memory"),
    ],
)
def test_contradictions(
    images: Path, tmp_path: Path, arguments: tuple[str, ...], problem: str
) -> None:
    result = train(images, tmp_path / "out", *arguments)
    assert result.exit_code == 2 and problem in result.stderr
    assert not (tmp_path / "out").exists()


def test_run_folders_that_cannot_be_made(images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 260)):
        result = run("train-restoration", "--task", "sr", "--data", tmp_path / "absent", "-o", out)
        assert result.exit_code == 2 and "Cannot make the folder" in result.stderr


@pytest.mark.parametrize(
    ("task", "sides", "problem"),
    [("sr", (64, 1), "cannot be made 2 times smaller"), ("denoise", (10, 10), "SSIM needs")],
)
def test_images_that_are_too_small_are_named(
    tmp_path: Path, task: str, sides: tuple[int, int], problem: str
) -> None:
    folder = tmp_path / "Set5"
    folder.mkdir()
    for name in ("one", "two"):
        Image.new("RGB", sides).save(folder / f"{name}.png")
    strength = ("--sigma", "25") if task == "denoise" else ()
    result = run(
        "train-restoration", "--data", folder, "--out", tmp_path / "out", "--task", task,
        "--steps", 1, "--batch-size", 1, "--crop", 8, *strength,
    )  # fmt: skip
    named = f"The image '{folder}"
    assert result.exit_code == 2 and problem in result.stderr and named in result.stderr
    result = run(
        "evaluate-restoration", "--data", tmp_path, "--sets", "Set5", "--task", task, *strength
    )
    assert result.exit_code == 2 and problem in result.stderr and named in result.stderr


def test_embedded_weights_have_a_size(images: Path) -> None:
    name = "mambair-nano-x2-w4a4"
    result = run("evaluate-restoration", "--data", images, "--model", name)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[2].split()[4] == f"{len(read_weights(name).content):,}"


def test_inputs_are_measured_without_a_model(images: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    result = run(
        "evaluate-restoration", "--data", images, "--task", "jpeg", "--quality", 10,
        "--quality", 40, "-o", table,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Classic5 has only 1 of its images here" in result.stderr
    with open(table, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["input"] for row in rows] == ["quality 10", "quality 40"]
    assert float(rows[0]["psnr"]) < float(rows[1]["psnr"]) - 2
    assert float(rows[0]["psnr_b"]) < float(rows[0]["psnr"]) and rows[0]["bytes"] == ""


def test_networks_side_by_side(images: Path, tmp_path: Path) -> None:
    sources: list[str | Path] = []
    for number in range(2):
        sources += ["--model", tiny(tmp_path / f"net{number}.safetensors")]
    table, report = tmp_path / "table.md", tmp_path / "table.json"
    for path in (table, report):
        result = run("evaluate-restoration", "--data", images, *sources, "-o", path)
        assert result.exit_code == 0, result.output
    lines = table.read_text().splitlines()
    assert lines[0] == ("| method | input | parameters | W/A bits | bytes | GMACs | TBOPs | Set5 |")
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| bicubic", "| net0", "| net1"]
    size = (tmp_path / "net0.safetensors").stat().st_size
    assert f"| 32 | {size:,} |" in lines[3]
    content = json.loads(report.read_text())
    assert list(content["rows"][1]["sets"]["Set5"]["images"]) == ["Set55", "Set56"]
    assert content["settings"]["mode"] == "whole"
    plus = run(
        "evaluate-restoration", "--data", images, *sources[:2], "--sets", "Set5", "--ensemble",
        "--mode", "official",
    )  # fmt: skip
    assert plus.exit_code == 0 and "net0" in plus.stdout


@pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_precisions(images: Path, tmp_path: Path, precision: str) -> None:
    arguments = ("--data", images, "--model", tiny(tmp_path / "net.safetensors"))
    quality = {}
    for each in ("fp32", precision):
        table = tmp_path / f"{each}.json"
        result = run("evaluate-restoration", *arguments, "--precision", each, "-o", table)
        assert result.exit_code == 0, result.output
        row = json.loads(table.read_text())["rows"][1]
        quality[row["method"]] = row["sets"]["Set5"]["mean"]["psnr"]
    assert list(quality) == ["net", f"net {precision}"]
    assert abs(quality["net"] - quality[f"net {precision}"]) < 0.5
    unknown = run("evaluate-restoration", *arguments, "--precision", "int4")
    assert unknown.exit_code == 2 and "choose auto, fp32, bf16, int8 or codes" in unknown.stderr


def test_wrong_usage_of_the_evaluation(images: Path, weights: Path, tmp_path: Path) -> None:
    data = ("--data", images)
    for arguments, problem in (
        ((*data,), "--model"),
        ((*data, "--task", "sr", "--sets", "Kodak24"), "no folder of 'Kodak24'"),
        ((*data, "--task", "denoise"), "None of CBSD68"),
        ((*data, "--task", "sr", "-o", tmp_path / "table.xls"), ".json"),
        ((*data, "--task", "sr", "--mode", "tiles"), "whole, official"),
        ((*data, "--model", weights), "restores no images"),
        ((*data, "--task", "sr", "-o", tmp_path / "absent" / "table.md"), "create it first"),
        ((*data, "--task", "sr", "--scale", 0), "The scale of sr must be"),
        ((*data, "--task", "sr", "--sigma", 25), "--sigma belongs to the task denoise, not to sr"),
        ((*data, "--task", "denoise", "--quality", 9), "--quality belongs to the task jpeg"),
        ((*data, "--model", "mambair-nano-x2-w4a4", "--sigma", 25), "--sigma belongs to the task"),
    ):
        result = run("evaluate-restoration", *arguments)
        assert result.exit_code == 2 and problem in result.stderr, result.output


def test_an_interruption_keeps_the_rows(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qmamba.evaluation.restoration import benchmark

    measure, weights = benchmark.evaluate_set, tiny(tmp_path / "tiny.safetensors")

    def stops(run: object, *arguments: object, **options: object) -> object:
        if run is not None:
            raise KeyboardInterrupt
        return measure(run, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(benchmark, "evaluate_set", stops)
    words = ("evaluate-restoration", "--data", images, "--sets", "Set5", "--model", weights)
    result = run(*words, "-o", tmp_path / "t.csv")
    assert result.exit_code == 130 and "interrupted after 1 rows" in result.stderr
    assert result.stdout.splitlines()[1].startswith("bicubic")
    assert not (tmp_path / "t.csv").exists()
    assert len((tmp_path / "t.partial.csv").read_text().splitlines()) == 2
