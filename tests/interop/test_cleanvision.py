"""Low quality as an issue, found by the real cleanvision."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from qmamba.assess import Scorer
from qmamba.errors import ConfigError
from qmamba.models import ScoreScale
from tests.assess.samples import save_tiny, write_image
from tests.interop.hosts import host

cleanvision = host("cleanvision")

from qmamba.interop.cleanvision import DEFAULT_THRESHOLD, ISSUE, register


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(6):
        write_image(folder / f"{seed}.png", 40, 50, seed=seed)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def lab(folder: Path) -> Any:
    return cleanvision.Imagelab(data_path=str(folder), verbose=False)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_low_scores_are_issues(folder: Path, tmp_path: Path, higher_is_better: bool) -> None:
    scale = ScoreScale("test", -20, 60, higher_is_better, target_mean=50, target_std=400)
    scorer = Scorer.from_pretrained(save_tiny(tmp_path, scale))
    expected = {}
    for path in folder.glob("[0-9].png"):
        share = (scorer(path).score + 20) / 80
        expected[path.name] = share if higher_is_better else 1 - share
    threshold = sorted(expected.values())[2] + 1e-6
    found = lab(folder)
    found.find_issues({register(): {"threshold": threshold, "model": scorer}}, verbose=False)
    table = found.issues
    scores = {Path(name).name: score for name, score in table[f"{ISSUE}_score"].items()}
    assert math.isnan(scores.pop("broken.png"))
    assert scores == pytest.approx(expected, abs=1e-6)
    marked = {Path(name).name for name, is_issue in table[f"is_{ISSUE}_issue"].items() if is_issue}
    assert marked == {name for name, share in expected.items() if share < threshold}
    summary = found.issue_summary
    assert int(summary.loc[summary.issue_type == ISSUE, "num_images"].iloc[0]) == len(marked) == 3
    info = found.info[ISSUE]
    assert info["num_unscored"] == 1 and info["model"] == "tiny"


def test_beside_their_own_issues(folder: Path) -> None:
    (folder / "broken.png").unlink()
    found = lab(folder)
    found.find_issues({"dark": {}}, n_jobs=1, verbose=False)
    found.find_issues({register(): {}}, n_jobs=1, verbose=False)
    assert {"dark_score", f"{ISSUE}_score"} <= set(found.issues)
    threshold = found.issues[f"{ISSUE}_score"] < DEFAULT_THRESHOLD
    assert threshold.equals(found.issues[f"is_{ISSUE}_issue"])


def test_refused_parameters(folder: Path) -> None:
    for params, message in (
        ({"threshold": 3}, "from 0 to 1, got 3"),
        ({"treshold": 0.2}, r"threshold and model, got \['treshold'\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            lab(folder).find_issues({register(): params}, verbose=False)
