"""`qmamba restore` within this process: files, folders, exit codes, what an interrupt leaves."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from qmamba import Restorer, Scorer
from qmamba.cli import app
from qmamba.evaluation.comparison import Comparison, Gain
from qmamba.images import read_image, read_layers
from qmamba.ops.native import library
from qmamba.restore import catalog
from tests.images.test_encode import exif_block
from tests.images.test_image_layers import noise
from tests.restore.stand_ins import save_networks, smooth

Run = Callable[..., Result]
PHOTOGRAPH = Path(__file__).parents[2] / "examples" / "cat.jpg"


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture
def run(networks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `qmamba restore` with a tiny model in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def restore(*arguments: str, model: str = "sr", stdin: bytes = b"") -> Result:
        parts = ["restore", *arguments]
        if "--model" not in arguments:
            parts += ["--model", str(networks[model])]
        return CliRunner().invoke(app, parts, input=stdin)

    return restore


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    Image.fromarray(smooth(14, 18)).save(folder / "a.png")
    Image.fromarray(smooth(10, 10, 1)[..., 0]).save(folder / "inner" / "gray.jpg")
    Image.fromarray(smooth(10, 12)).save(folder / "inner" / "z.bmp")
    (folder / "readme.txt").touch()
    return folder


def files(folder: str) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()
    )


def test_one_file(run: Run, photos: Path, networks: dict[str, Path]) -> None:
    result = run("photos/a.png", "-o", "b.png")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("photos/a.png -> b.png  36x28, ")
    assert "super-resolution x2: model tiny-sr (sha256 " in result.stderr
    assert "1 image restored" in result.stderr
    expected = Restorer.from_pretrained(networks["sr"]).restore("photos/a.png").pixels
    assert np.array_equal(read_layers("b.png").colors, expected)


def test_folders_keep_their_tree(run: Run, photos: Path) -> None:
    assert run("photos", "-o", "flat").exit_code == 0
    assert files("flat") == ["a.png"]
    result = run("photos", "-o", "out", "-r")
    assert result.exit_code == 0
    assert files("out") == ["a.png", "inner/gray.jpg", "inner/z.png"]
    assert read_layers("out/inner/gray.jpg").colors.shape == (20, 20, 1)
    assert run("photos", "-o", "webp", "-r", "--format", "webp").exit_code == 0
    assert files("webp") == ["a.webp", "inner/gray.webp", "inner/z.webp"]


def test_images_that_are_not_read_are_named(run: Run, photos: Path) -> None:
    (photos / "a.heic").touch()
    result = run("photos", "-o", "out")
    assert result.exit_code == 0, result.output
    assert "Left out: 1 .heic file, a kind that is not read" in result.stderr


def test_without_an_output_results_lie_beside_their_images(run: Run, photos: Path) -> None:
    before = Path("photos/a.png").read_bytes()
    result = run("photos", "-r")
    assert result.exit_code == 0, result.output
    results = ["a-x2.png", "a.png", "inner/gray-x2.png", "inner/gray.jpg", "inner/z-x2.png"]
    assert files("photos") == [*results, "inner/z.bmp", "readme.txt"]
    assert Path("photos/a.png").read_bytes() == before
    assert read_layers("photos/a-x2.png").colors.shape == (28, 36, 3)
    again = run("photos", "-r")
    assert again.exit_code == 1 and again.stdout.count("exists already; --force replaces it") == 3
    assert run("photos", "-r", "--skip-existing").stdout.count("skipped") == 3
    assert run("photos/a.png", "--format", "tiff", model="denoise").exit_code == 0
    assert Path("photos/a-denoised.tif").exists()
    Image.fromarray(smooth(8, 8)).save("photos/a.jpg")
    assert "would be written over that of" in run("photos", "--force").stdout
    assert run("-", stdin=b"photos/a.png").exit_code == 2


@pytest.mark.parametrize("real", [(), ("--real",)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_embedded_weights_by_scale(photos: Path, scale: int, real: tuple[str, ...]) -> None:
    image = str(photos / "a.png")
    result = CliRunner().invoke(app, ["restore", image, "--scale", str(scale), *real])
    assert result.exit_code == 0, result.output
    larger = read_layers(photos / f"a-x{scale}.png")
    assert larger.colors.shape == (14 * scale, 18 * scale, 3)
    assert f"mambair-nano-x{scale}{'-real' if real else ''}-w4a4" in result.stderr


def test_a_scale_without_weights(run: Run, photos: Path) -> None:
    assert run("photos/a.png", "--scale", "3", "--model", "").exit_code == 2
    result = CliRunner().invoke(app, ["restore", str(photos / "a.png"), "--scale", "5"])
    assert result.exit_code == 2 and not (photos / "a-x5.png").exists()
    assert "no embedded weights for sr scale 5" in result.stderr


def test_lists_and_patterns(run: Run, photos: Path) -> None:
    result = run("-", "photos/i*/*.bmp", "-o", "out", stdin=b"photos/a.png\ngone.png\n")
    assert result.exit_code == 1
    assert files("out") == ["a.png", "z.png"]
    assert "error: gone.png: cannot read: there is no such file" in result.stdout
    assert "2 images restored, 1 failed" in result.stderr


def test_hostile_folder(run: Run, photos: Path) -> None:
    good = (photos / "a.png").read_bytes()
    contents = {
        "empty.jpg": b"",
        "text.jpg": b"no image at all",
        "truncated.png": good[: len(good) // 2],
        "two\nlines.png": good,
        "ünï 图.png": good,
    }
    for name, content in contents.items():
        (photos / name).write_bytes(content)
    (photos / "loop").symlink_to(photos, target_is_directory=True)
    result = run("photos", "-o", "out", "-r")
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert "5 images restored, 3 failed" in result.stderr
    assert r"two\nlines.png" in result.stdout
    assert {"two\nlines.png", "ünï 图.png"} < set(files("out"))


def test_hostile_images_come_out(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    colors = Image.fromarray(smooth(6, 9))
    colors.save(folder / "turned.jpg", exif=exif)
    colors.convert("CMYK").save(folder / "cmyk.jpg")
    palette = colors.convert("P")
    palette.save(folder / "palette.png", transparency=palette.getpixel((0, 0)))
    colors.convert("1").save(folder / "bilevel.png")
    Image.fromarray(noise(1, 40, 3)).save(folder / "line.png")
    Image.fromarray(noise(1, 1, 4)).save(folder / "dot.png")
    Image.fromarray(noise(7, 5, dtype=np.uint16)).save(folder / "deep.tif")
    colors.convert("RGBA").save(folder / "opaque.webp", lossless=True)
    assert run("odd", "-o", "out").exit_code == 0
    assert read_layers("out/turned.jpg").colors.shape == (18, 12, 3)
    assert read_layers("out/turned.jpg").notes == ()
    assert read_layers("out/bilevel.png").colors.shape == (12, 18, 1)
    assert read_layers("out/line.png").colors.shape == (2, 80, 3)
    assert read_layers("out/deep.tif").bits == 16
    assert read_layers("out/palette.png").alpha is not None


def test_existing_files(run: Run, photos: Path) -> None:
    Path("out").mkdir()
    Path("out/a.png").write_bytes(b"mine")
    result = run("photos", "-o", "out", "-r")
    assert result.exit_code == 1 and Path("out/a.png").read_bytes() == b"mine"
    assert "error: photos/a.png: 'out/a.png' exists already" in result.stdout
    result = run("photos", "-o", "out", "-r", "--skip-existing")
    assert result.exit_code == 0 and "0 images restored, 3 skipped" in result.stderr
    assert Path("out/a.png").read_bytes() == b"mine"
    assert run("photos", "-o", "out", "--force").exit_code == 0
    assert read_layers("out/a.png").width == 36
    assert run("photos/a.png", "-o", "out/a.png", "--skip-existing").exit_code == 0


def test_nothing_is_written_over_an_input(run: Run, photos: Path) -> None:
    before = (photos / "a.png").read_bytes()
    result = run("photos", "-o", "photos", "--force")
    assert result.exit_code == 1 and "over the image itself" in result.stdout
    result = run("photos/a.png", "-o", "photos/a.png", "--force")
    assert result.exit_code == 2 and "is the image itself" in result.stderr
    assert (photos / "a.png").read_bytes() == before
    Image.fromarray(smooth(10, 10)).save(photos / "a.jpg")
    result = run("photos", "-o", "photos", "--format", "png", "--force")
    assert result.exit_code == 1 and "over the input 'photos/a.png'" in result.stdout
    assert (photos / "a.png").read_bytes() == before


def test_tasks_tiles_and_options(run: Run, photos: Path) -> None:
    Image.fromarray(smooth(40, 40)).save("big.png")
    options = ["--tile", "24", "--overlap", "4", "--ensemble", "--precision", "bf16"]
    result = run("big.png", "-o", "b.png", *options, "--task", "jpeg", model="jpeg")
    assert result.exit_code == 0, result.output
    assert "luma restored, chroma kept; 4 tiles of 22x22" in result.stdout
    assert "gray JPEG, quality 10 to 40: model tiny-jpeg" in result.stderr
    assert run("big.png", "-o", "c.png", "--sigma", "15", model="denoise").exit_code == 0
    eight_bits = run("big.png", "-o", "d.png", "--precision", "int8", model="denoise")
    has_kernel = library.unavailable_reason() is None
    assert (eight_bits.exit_code == 0) == has_kernel, eight_bits.output


def test_strip_metadata(run: Run, photos: Path) -> None:
    exif = Image.Exif()
    exif.load(exif_block())
    Image.open(photos / "a.png").save("in.png", exif=exif)
    run("in.png", "-o", "kept.png")
    run("in.png", "-o", "bare.png", "--strip-metadata")
    assert b"Maker" in Path("kept.png").read_bytes()
    assert b"Maker" not in Path("bare.png").read_bytes()


def test_reference(run: Run, photos: Path) -> None:
    original = smooth(41, 53)
    Image.fromarray(original).save("original.png")
    Image.fromarray(original[:40:2, :52:2]).save("small.png")
    result = run("small.png", "-o", "b.png", "--reference", "original.png")
    assert result.exit_code == 0, result.output
    line = result.stdout.splitlines()[1]
    assert line.startswith("  PSNR ") and "; bicubic PSNR " in line and "2 pixels" in line
    Image.fromarray(original).save("noisy.png")
    result = run("noisy.png", "-o", "c.png", "--reference", "original.png", model="denoise")
    assert "; input PSNR inf dB, SSIM 1.0000" in result.stdout
    result = run("photos/a.png", "-o", "d.png", "--reference", "original.png")
    assert result.exit_code == 2 and "the original of this image" in result.stderr
    assert not os.path.exists("d.png")
    result = run("small.png", "-o", "e.png", "--reference", "original.png", "--max-pixels", "2000")
    assert result.exit_code == 2 and "--max-pixels" in result.stderr


def test_a_result_that_cannot_be_measured_is_kept(run: Run, photos: Path) -> None:
    Image.fromarray(smooth(8, 9)).save("tiny.png")
    Image.fromarray(smooth(8, 9)).save("small.png")
    result = run("tiny.png", "-o", "b.png", "--reference", "small.png", model="denoise")
    assert result.exit_code == 1 and os.path.exists("b.png")
    assert "  not compared: SSIM needs images of at least 11 pixels" in result.stdout
    assert "1 image restored, 1 measurements failed" in result.stderr


def test_the_pixel_limit_is_for_inputs_and_not_for_results(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions: list[Any] = [read_layers, read_image, vars(Scorer)["from_pretrained"].__func__]
    for function in functions:
        monkeypatch.setitem(function.__kwdefaults__, "max_pixels", 100)
    Image.fromarray(smooth(28, 36)).save("original.png")
    more = ("--max-pixels", "1008", "--score", "--reference", "original.png")
    result = run("photos/a.png", "-o", "b.png", *more)
    assert result.exit_code == 0, result.output
    assert "  PSNR " in result.stdout and "  quality " in result.stdout
    result = run("b.png", "-o", "c.png", "--max-pixels", "1008", "--score")
    assert result.exit_code == 0 and "  quality " in result.stdout


def test_a_failure_to_score_does_not_end_the_run(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Scorer, image: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(Scorer, "__call__", fail)
    result = run("photos", "-o", "out", "-r", "--score")
    assert result.exit_code == 1 and len(files("out")) == 3
    assert result.stdout.count("  no quality score: MemoryError: no room") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.png", "-o", "out"], "There is no file or folder 'gone.png'"),
        (["-", "-", "-o", "out"], "once only"),
        (["empty", "-o", "out"], "No images found in 'empty'; --recursive"),
        (["photos", "-o", "out.png"], "give a folder"),
        (["photos/a.png", "photos/a.png", "-o", "out.png"], "give a folder"),
        (["photos/a.png", "-o", "out.gif"], "must end in"),
        (["photos/a.png", "-o", "out.png", "--format", "jpeg"], "contradicts"),
        (["photos/a.png", "-o", "gone/out.png"], "no folder 'gone'"),
        (["photos/a.png", "-o", "there.png"], "--force replaces it"),
        (["photos/a.png", "-o", "photos/readme.txt"], "is a file"),
        (["photos", "-o", "out", "--force", "--skip-existing"], "choose one"),
        (["photos", "-o", "out", "--tile", "huge"], "--tile must be"),
        (["photos", "-o", "out", "--tile", "3"], "tile must be"),
        (["photos", "-o", "out", "--precision", "fp8"], "precision"),
        (["photos", "-o", "out", "--device", "abacus"], "abacus"),
        (["photos", "-o", "out", "--task", "denoise"], "not for denoise"),
        (["photos", "-o", "out", "--scale", "4"], "enlarges by 2"),
        (["photos", "-o", "out", "--scale", "9"], "--scale"),
        (["photos", "-o", "out", "--task", "sr", "--sigma", "9"], "belongs to the task"),
        (["photos", "-o", "out", "-r", "--reference", "there.png"], "there are 3"),
        (["photos/a.png", "-o", "out.png", "--reference", "gone.png"], "no such file"),
        (["photos", "-o", "out", "--model", "photos/a.png"], "error"),
        (["photos/a.png", "-o", "x" * 260 + ".png"], "File name too long"),
        (["photos/a.png", "-o", ""], "it is empty"),
        (["-o", "out"], "INPUT"),
    ],
)
def test_wrong_usage(run: Run, photos: Path, arguments: list[str], message: str) -> None:
    Path("empty/inside").mkdir(parents=True)
    Path("there.png").write_bytes(b"mine")
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr and result.stdout == "" and "Traceback" not in result.output
    assert not list(Path().glob("out*")) and Path("there.png").read_bytes() == b"mine"


def test_no_embedded_weights(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "list_weights", list)
    result = CliRunner().invoke(app, ["restore", "photos", "-o", "out", "--task", "jpeg"])
    assert result.exit_code == 2
    assert "There are no embedded weights for jpeg" in result.stderr
    assert not os.path.exists("out")


def test_output_inside_the_input_is_not_restored_again(run: Run, photos: Path) -> None:
    for _ in range(2):
        assert run("photos", "-o", "photos/better", "-r", "--force").exit_code == 0
    assert files("photos/better") == ["a.png", "inner/gray.jpg", "inner/z.png"]
    assert run("photos/better/inner", "-o", "photos/better", "-r").exit_code == 0
    assert files("photos/better")[1] == "gray.jpg"


def test_score(run: Run, photos: Path) -> None:
    result = run("photos/a.png", "-o", "b.png", "--score")
    assert result.exit_code == 0, result.output
    line = result.stdout.splitlines()[1]
    figures = r"  quality [\d.]+ -> [\d.]+, [+-][\d.]+: (better|worse|no clear change)"
    assert re.fullmatch(figures + r"; PSNR to the input [\d.]+ dB", line), line
    assert "higher is better" in result.stderr and "2 standard errors" in result.stderr


def test_only_better_results_are_kept(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = iter(["worse", "better", "no clear change"])
    monkeypatch.setattr(Gain, "verdict", property(lambda self: next(verdicts)))
    seen: list[str] = []

    def described(comparison: Comparison) -> str:
        seen.append("figures")
        return "figures"

    monkeypatch.setattr("qmamba.cli.display.fidelity.described", described)
    result = run("photos", "-o", "out", "-r", "--keep-if-better")
    assert result.exit_code == 0, result.output
    assert files("out") == ["inner/gray.jpg"]
    assert result.stdout.count("  quality figures") == 3 == len(seen)
    assert result.stdout.count("left as it was, the result is not clearly better") == 2
    assert "1 image restored, 2 left unchanged" in result.stderr


def test_interrupt(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restore = Restorer.restore
    calls = iter(range(10))

    def interrupted(self: Restorer, image: Any, **options: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return restore(self, image, **options)

    monkeypatch.setattr(Restorer, "restore", interrupted)
    result = run("photos", "-o", "out", "-r")
    assert result.exit_code == 130
    assert "interrupted after 1 of 3 images" in result.stderr
    assert files("out") == ["a.png"]
    assert run("photos", "-o", "out", "-r", "--skip-existing").exit_code == 0
    assert len(files("out")) == 3


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--task", "auto", "--sigma", "9"), "--task auto chooses the model"),
        (("--task", "auto", "--real"), "--task auto chooses the model"),
        (("--task", "jpeg", "--real"), "belongs to the task sr"),
        (("--task", "jpeg", "--strength", "0.5"), "belongs to the task denoise, not to jpeg"),
        (("--model", "mambair-nano-x2-w4a4", "--real"), "not for real files"),
    ],
)
def test_contradictions_about_files(
    tmp_path: Path, arguments: tuple[str, ...], problem: str
) -> None:
    Image.fromarray(smooth(10, 12)).save(tmp_path / "a.png")
    result = CliRunner().invoke(app, ["restore", str(tmp_path / "a.png"), *arguments])
    assert result.exit_code == 2 and problem in " ".join(result.stderr.split())
