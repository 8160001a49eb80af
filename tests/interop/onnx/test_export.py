"""Whole networks as ONNX files."""

from __future__ import annotations

import hashlib
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import ExifTags, Image

import qmamba.interop.onnx.export as exporting
from qmamba.assess import DEFAULT_WEIGHTS, Scorer
from qmamba.checkpoints import save_model
from qmamba.errors import CheckpointError, ConfigError, DataError, QMambaError, ShapeError
from qmamba.images import crop_grid
from qmamba.interop.onnx import TOLERANCE, ExportReport, export_onnx
from qmamba.interop.onnx.verification import open_session, session_runner
from qmamba.models import ModelMetadata, create_model
from qmamba.prompts import TuningConfig
from qmamba.prompts.tuned import TunedQMamba
from qmamba.restore import Restorer
from tests.conftest import REPOSITORY
from tests.interop.onnx.samples import (
    LOCAL_SCORER,
    SCORER,
    operator_counts,
    require_torch,
    restorer,
    run_session,
    scorer,
)
from tests.models.micro_mambair import VARIANTS

pytestmark = require_torch

EXAMPLES = REPOSITORY / "examples"
EXAMPLE = EXAMPLES / "score_with_onnx.py"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export_onnx(scorer(), tmp_path_factory.mktemp("onnx") / "scorer.onnx")


def test_a_scorer_gives_its_scores_at_other_sizes(exported: ExportReport) -> None:
    assert exported.deviation <= 1e-6 < TOLERANCE
    assert {comparison.shape for comparison in exported.comparisons} == {
        (1, 3, 224, 224),
        (2, 3, 161, 200),
        (1, 3, 97, 225),
    }
    run = session_runner(open_session(exported.path, threads=1))
    model = scorer()
    image = torch.rand(3, 3, 33, 71)
    mine = Scorer(model, policy="native").score_tensor(image)
    torch.testing.assert_close(run(image), mine.detach(), rtol=0, atol=1e-5)
    assert float(run(image).std()) > 1e-4


def test_a_file_is_its_own_and_says_what_it_is(exported: ExportReport) -> None:
    content = exported.path.read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (exported.size, exported.sha256)
    assert [path.name for path in exported.path.parent.iterdir()] == ["scorer.onnx"]
    assert b"secret" not in content and str(REPOSITORY).encode() not in content
    assert sys.prefix.encode() not in content and b".py" not in content
    file = onnx.load(exported.path)
    about = {entry.key: entry.value for entry in file.metadata_props}
    assert about == exported.metadata
    assert json.loads(about["qmamba.score"]) == {
        "name": "test MOS",
        "low": 1.0,
        "high": 5.0,
        "higher_is_better": True,
    }
    assert about["qmamba.policy"] == "crops(size=32,count=4,layout=fixed)"
    assert about["qmamba.sha256"] == "0" * 64 and about["qmamba.terms"] == "no terms"


def test_a_file_has_one_node_for_each_scan_and_no_operator_of_others(
    exported: ExportReport,
) -> None:
    file = onnx.load(exported.path)
    counts = operator_counts(file)
    assert counts["qmamba::SS2D"] == 2
    assert {entry.domain for entry in file.opset_import} == {"", "qmamba"}
    assert not {"Scan", "Loop", "Split"} & set(counts)
    shape = file.graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_param or side.dim_value for side in shape] == ["batch", 3, "height", "width"]


@pytest.mark.parametrize("opset", [18, 23])
def test_other_opsets(opset: int, tmp_path: Path) -> None:
    report = export_onnx(scorer(), tmp_path / "scorer.onnx", opset=opset)
    versions = {entry.domain: entry.version for entry in onnx.load(report.path).opset_import}
    assert versions[""] == opset
    assert report.deviation <= 1e-6


def test_a_noise_map_is_a_second_input(tmp_path: Path) -> None:
    model = restorer(VARIANTS["denoise"].replace(condition_channels=1))
    report = export_onnx(model, tmp_path / "blind.onnx")
    assert report.deviation <= 1e-5 and report.metadata["qmamba.noise_maps"] == "1"
    session = open_session(report.path, threads=1)
    assert [(each.name, each.shape) for each in session.get_inputs()] == [
        ("image", ["batch", 3, "height", "width"]),
        ("noise", ["batch", 1, "height", "width"]),
    ]
    image, noise = torch.rand(2, 3, 19, 26), 0.2 * torch.rand(2, 1, 19, 26)
    found = run_session(session, image=image, noise=noise)
    expected = model(torch.cat([image, noise], dim=1)).clamp(0, 1)
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-5)
    assert float((found - run_session(session, image=image, noise=0 * noise)).abs().max()) > 1e-4


def test_local_windows_and_route_gates(tmp_path: Path) -> None:
    report = export_onnx(scorer(LOCAL_SCORER), tmp_path / "local.onnx")
    assert report.deviation <= 1e-6
    assert operator_counts(onnx.load(report.path))["qmamba::SS2DRoutes"] == 2


@pytest.mark.parametrize("method", ["style", "cross-attention", "convolution", "ssf"])
def test_tuned_networks(method: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tuned = TunedQMamba(scorer(), TuningConfig(method=method))
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    tuned.metadata = scorer().metadata
    plain = export_onnx(scorer(), tmp_path / "plain.onnx")
    report = export_onnx(tuned.eval(), tmp_path / "tuned.onnx")
    assert report.deviation <= 1e-6
    image = torch.rand(1, 3, 64, 64)
    first, second = (
        session_runner(open_session(each.path, threads=1))(image) for each in (plain, report)
    )
    assert abs(float(first - second)) > 1e-3


@pytest.mark.parametrize(
    "name", ["light-x3-gray", "light-february", "classic-x4", "real-x4", "denoise", "jpeg-gray"]
)
def test_restorers_of_every_task(name: str, tmp_path: Path) -> None:
    model = restorer(VARIANTS[name])
    report = export_onnx(model, tmp_path / "restorer.onnx")
    assert report.deviation <= 2e-5
    assert all(comparison.psnr and comparison.psnr > 100 for comparison in report.comparisons)
    run = session_runner(open_session(report.path, threads=1))
    image = torch.rand(2, model.config.channels, 17, 22)
    torch.testing.assert_close(run(image), Restorer(model).restore_tensor(image), rtol=0, atol=2e-5)


def test_a_fixed_size(tmp_path: Path) -> None:
    report = export_onnx(scorer(), tmp_path / "fixed.onnx", static=(48, 40))
    assert [comparison.shape for comparison in report.comparisons] == [
        (batch, 3, 48, 40) for batch in (1, 2, 3)
    ]
    shape = onnx.load(report.path).graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_param or side.dim_value for side in shape] == ["batch", 3, 48, 40]


def test_a_file_that_deviates_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What earlier rows left is taken away instead of added, so the first row alone is right."""
    whole = exporting.scan_functions

    def with_wrong_sign(opset: int, **options: Any) -> list[onnx.FunctionProto]:
        functions = whole(opset, **options)
        for function in functions:
            for node in function.node:
                if node.op_type == "Add" and node.output[0].startswith("y_"):
                    node.op_type = "Sub"
        return functions

    monkeypatch.setattr(exporting, "scan_functions", with_wrong_sign)
    path = tmp_path / "wrong.onnx"
    path.write_text("older")
    with pytest.raises(QMambaError, match=r"deviates by .* no file was written"):
        export_onnx(restorer(VARIANTS["denoise"]), path)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    path = tmp_path / "file.onnx"
    with pytest.raises(ConfigError, match="opset is one of 18"):
        export_onnx(scorer(), path, opset=17)
    with pytest.raises(ConfigError, match=r"ends in \.onnx"):
        export_onnx(scorer(), tmp_path / "file.bin")
    with pytest.raises(ConfigError, match="height and a width"):
        export_onnx(scorer(), path, static=(0, 4))
    with pytest.raises(DataError, match="does not exist"):
        export_onnx(scorer(), tmp_path / "nowhere" / "file.onnx")
    model = scorer()
    model.metadata = None
    with pytest.raises(CheckpointError, match="no score scale"):
        export_onnx(model, path)
    attentive = create_model("mambairv2-light-x2", dim=16, depths=(1,))
    with pytest.raises(ConfigError, match="A MambaIRv2 cannot be exported"):
        export_onnx(attentive, path)
    with_statistics = scorer(SCORER.replace(statistics=8))
    with pytest.raises(ShapeError, match="sides of at least 32"):
        export_onnx(with_statistics, path, static=(16, 40))
    assert not list(tmp_path.iterdir())


def test_the_example_gets_the_scores_of_the_command(tmp_path: Path) -> None:
    """Photographs through numpy and ONNX Runtime, in a process that imports no torch."""
    report = export_onnx(DEFAULT_WEIGHTS, tmp_path / "default.onnx")
    with Image.open(EXAMPLES / "coffee.jpg") as opened:
        coffee = opened.convert("RGB")
    photographs = {
        "small": coffee.resize((60, 40)),
        "tiny": coffee.resize((25, 18)),
        "wide": coffee.crop((0, 0, 600, 150)),
        "few": coffee.resize((300, 229)),
        "gray": coffee.convert("L").resize((240, 360)),
        "large": coffee.resize((1001, 667)),
    }
    paths = [EXAMPLES / "coffee.jpg"]
    for name, image in photographs.items():
        paths.append(tmp_path / f"{name}.png")
        image.save(paths[-1])
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    paths.append(tmp_path / "turned.jpg")
    coffee.save(paths[-1], exif=turned)
    code = (
        "import runpy, sys; example, file, *paths = sys.argv[1:]; "
        "score = runpy.run_path(example)['score']; "
        "print(*(score(file, path) for path in paths)); "
        "assert not {'torch', 'qmamba', 'onnx'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLE), str(report.path), *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    # A file sees the image scaled down and not its native size.
    found = Scorer.from_pretrained()(paths)
    ours = [each.score if each.whole is None else each.whole for each in found]
    np.testing.assert_allclose([float(text) for text in result.stdout.split()], ours, atol=1e-4)


def test_the_example_says_what_is_wrong_with_its_files(
    exported: ExportReport, tmp_path: Path
) -> None:
    coffee = EXAMPLES / "coffee.jpg"
    broken, cut, enlarger, fixed = (
        tmp_path / name for name in ("broken\n.onnx", "cut.jpg", "enlarger.onnx", "fixed.onnx")
    )
    broken.write_bytes(exported.path.read_bytes()[:1000])
    cut.write_bytes(coffee.read_bytes()[:3000])
    export_onnx(restorer(VARIANTS["denoise"]), enlarger)
    export_onnx(scorer(), fixed, static=(64, 64))
    for files, words in (
        (("absent.onnx", coffee), "There is no file 'absent.onnx'"),
        ((tmp_path, coffee), f"There is no file {str(tmp_path)!r}"),
        ((broken, coffee), f"{str(broken)!r} is no ONNX file or a damaged one"),
        ((coffee, coffee), f"{str(coffee)!r} is no ONNX file"),
        ((enlarger, coffee), f"{str(enlarger)!r} gives no scores"),
        ((fixed, coffee), f"{str(fixed)!r} does not take 10 crops of 224 x 224 pixels"),
        ((exported.path, "absent.jpg"), "There is no file 'absent.jpg'"),
        ((exported.path, cut), f"{str(cut)!r} is damaged"),
        ((exported.path, EXAMPLE), f"{str(EXAMPLE)!r} is damaged or no image"),
        ((exported.path,), "Usage: "),
    ):
        result = subprocess.run(
            [sys.executable, str(EXAMPLE), *map(str, files)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert (result.returncode, result.stdout) == (2, ""), result.stderr
        line = result.stderr.splitlines()[-1].removeprefix("error: ")
        assert line.startswith(words), result.stderr
        assert "Traceback" not in result.stderr


def test_the_example_takes_the_crops_of_the_policy() -> None:
    layout = runpy.run_path(str(EXAMPLE))["layout"]
    generator = np.random.default_rng(0)
    small = [(down, across) for down in range(6) for across in range(down, 12)]
    large = np.sort(generator.integers(0, 900, (300, 2)), axis=1).tolist()
    thin = [(low, high) for low, high in zip(range(40), range(40, 2000, 49), strict=True)]
    for down, across in (*small, *large, *thin):
        expected = dict.fromkeys(crop_grid(224 + down, 224 + across))
        assert list(dict.fromkeys(layout(down, across))) == list(expected)


def test_weights_are_found_by_name(tmp_path: Path) -> None:
    source = tmp_path / "weights.safetensors"
    metadata = scorer().metadata
    assert isinstance(metadata, ModelMetadata)
    saved = save_model(scorer(), source, metadata=metadata, dtype=torch.float32)
    report = export_onnx(source, tmp_path / "out.onnx")
    assert report.metadata["qmamba.sha256"] == saved.sha256
    image = np.random.default_rng(0).random((1, 3, 40, 50), dtype=np.float32)
    session = open_session(report.path, threads=1)
    assert session.run(["score"], {"image": image})[0].shape == (1,)
