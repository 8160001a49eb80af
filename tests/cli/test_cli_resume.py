"""`qmamba score -o FILE --resume`: nothing that was computed is lost, and nothing is mixed up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from qmamba.assess import Scorer
from qmamba.cli import app
from tests.assess.samples import write_image
from tests.cli.writers import SHARDS, Writer, make_inputs, named, parametrized

Run = Callable[..., Result]
NAMES = ("a.png", "b.png", "c.png", "d.png")


@pytest.fixture
def run(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `qmamba score` with the tiny model beside a folder of images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for seed, name in enumerate(NAMES):
        write_image(tmp_path / "photos" / name, seed=seed)
    (tmp_path / "photos" / "e.png").touch()

    def score(*arguments: str, stdin: bytes = b"") -> Result:
        parts = ["score", *arguments, "--model", str(weights)]
        return CliRunner().invoke(app, parts, input=stdin)

    return score


@pytest.fixture
def interrupted(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], list[str]]:
    """Stop a run after some images; what is scored afterwards is in the list."""
    scored: list[str] = []
    prepare = Scorer.prepare

    def stop(output: str, after: int) -> list[str]:
        def count(self: Scorer, image: Any) -> Any:
            scored.append(os.path.basename(image))
            if len(scored) > after:
                raise KeyboardInterrupt
            return prepare(self, image)

        def watch(self: Scorer, image: Any) -> Any:
            scored.append(os.path.basename(image))
            return prepare(self, image)

        monkeypatch.setattr(Scorer, "prepare", count)
        assert run("photos", "-o", output, "--workers", "1").exit_code == 130
        monkeypatch.setattr(Scorer, "prepare", watch)
        scored.clear()
        return scored

    return stop


@pytest.mark.parametrize("output", ["out.csv", "out.jsonl"])
@pytest.mark.parametrize("sort", ["input", "best"])
def test_the_table_is_that_of_one_run(
    run: Run, interrupted: Callable[[str, int], list[str]], output: str, sort: str
) -> None:
    assert run("photos", "-o", f"whole-{output}", "--sort", sort).exit_code == 1
    scored = interrupted(output, 3)
    kept = [line for line in Path(f"{output}.partial").read_text().splitlines() if ".png" in line]
    result = run("photos", "-o", output, "--resume", "--sort", sort)
    assert result.exit_code == 1, result.output
    assert f"going on after {len(kept)} images" in result.stderr
    assert "4 images scored, 1 failed" in result.stderr
    assert sorted(scored) == sorted([*NAMES, "e.png"])[len(kept) :]
    assert Path(output).read_bytes() == Path(f"whole-{output}").read_bytes()
    assert not [name for name in os.listdir() if "partial" in name]


def test_without_resume_the_rows_stay(
    run: Run, interrupted: Callable[[str, int], list[str]]
) -> None:
    interrupted("out.csv", 3)
    content = Path("out.csv.partial").read_bytes()
    for arguments, message in [
        (("photos",), "go on with it with --resume, or discard it with --force"),
        (("photos", "--resume", "--policy", "crops:3"), "policy was"),
        (("photos/b.png", "--resume"), "image 1 was 'photos/a.png' and is 'photos/b.png' now"),
        (("photos/a.png", "--resume"), "image 2 was 'photos/b.png' and is nothing now"),
    ]:
        result = run(*arguments, "-o", "out.csv")
        assert result.exit_code == 2 and message in result.stderr, result.output
        assert Path("out.csv.partial").read_bytes() == content
    assert run("photos", "-o", "out.csv", "--force").exit_code == 1
    assert len(Path("out.csv").read_text().splitlines()) == 6


def test_resuming_nothing_begins(run: Run) -> None:
    result = run("photos", "-o", "out.csv", "--resume")
    assert result.exit_code == 1
    assert "nothing to go on from: out.csv.partial holds no rows" in result.stderr
    assert len(Path("out.csv").read_text().splitlines()) == 6


RUNS = ("train --out", "tune --out", "train-restoration --out")


@parametrized([*named(*RUNS), SHARDS])
def test_a_folder_with_nothing_to_go_on_from(writer: Writer, tmp_path: Path) -> None:
    words = [*writer.line(make_inputs(tmp_path), tmp_path), "--resume"]
    for said in (1, 0):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        assert result.stderr.count(f"nothing to go on from: {tmp_path / writer.output} h") == said


def test_options_without_a_file(run: Run) -> None:
    for option, message in (
        ("--resume", "rows of -o FILE; add it"),
        ("--force", "files of -o, --map and --maps; add one"),
    ):
        result = run("photos", option)
        assert result.exit_code == 2 and message in result.stderr
