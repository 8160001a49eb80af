"""A report and a contact sheet of a folder of scores."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from qmamba.cli import app
from qmamba.scale.choice.gallery import _places, find_files, gallery
from qmamba.scale.shard_file import Format
from qmamba.scale.worker import Worker
from tests.scale.sets import make_job, planned
from tests.scale.test_worker import work


@pytest.fixture(scope="module", params=["parquet", "jsonl.gz"])
def scored(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    weights: Path,
    data: Path,
) -> Path:
    form: Format = request.param
    job = make_job(tmp_path_factory.mktemp("scored") / "scores", weights, threads=None)
    planned(job, [data], format=form)
    work(job)
    return Path(job.folder)


def report(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def data_of(path: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())
    assert found is not None
    content: dict[str, Any] = json.loads(found[1])
    return content


def test_a_report_of_a_folder(scored: Path, weights: Path, tmp_path: Path) -> None:
    done = report(scored, "-o", tmp_path / "r.html", "--sheet", tmp_path / "s.png")
    assert done.exit_code == 0, done.output
    # The weights of the test have no name that anybody could find.
    assert "no quality maps" in done.stderr and (tmp_path / "s.png").stat().st_size > 1000
    shown = {image["name"]: image for image in data_of(tmp_path / "r.html")["images"]}
    rows = {row.image: row for row in gallery(scored, 10**6).rows}
    assert len(shown) == len(rows) == 42
    for key, row in rows.items():
        image = shown[key.replace("\n", "?")]
        if row.score is None:
            assert image["error"] == row.error and "thumb" not in image
        else:
            assert image["score"] == row.score.score
            assert image["thumb"].startswith("data:image/webp;base64,")
            # Images of archives have no address of their own.
            assert (image["link"] is None) == (".tar" in key)


def test_maps_of_images_in_tar_files(scored: Path, weights: Path, tmp_path: Path) -> None:
    done = report(scored, "-o", tmp_path / "r.html", "--model", weights, "--regions", "30")
    assert done.exit_code == 0, done.output
    assert "30 with a quality map" in done.stderr
    images = data_of(tmp_path / "r.html")["images"]
    assert sum("map" in image and ".tar" in image["name"] for image in images) > 20


def test_a_part_of_a_folder(scored: Path, tmp_path: Path) -> None:
    everything = gallery(scored, 10**6)
    part = gallery(scored, 12, ends=2)
    assert part.total == everything.total == 42 and len(part.rows) == 12
    raw = sorted(row.score.raw for row in everything.rows if row.score)
    shown = sorted(row.score.raw for row in part.rows if row.score)
    assert shown[:2] == raw[:2] and shown[-2:] == raw[-2:]
    assert sum(row.error is not None for row in part.rows) == 2
    order = [row.image for row in everything.rows]
    places = [order.index(row.image) for row in part.rows]
    assert places == sorted(places)
    done = report(scored, "-o", tmp_path / "r.html", "--images", "12", "--regions", "2")
    assert "12 of 42 images are shown" in done.stderr
    assert "12 of 42 images are shown" in data_of(tmp_path / "r.html")["info"]["made"]


def test_images_that_are_gone(tmp_path: Path, weights: Path, data: Path) -> None:
    import shutil

    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    job = make_job(tmp_path / "scores", weights, threads=None)
    planned(job, [copy])
    work(job)
    (copy / "00001.tar").unlink()
    (copy / "single3.png").unlink()
    done = report(job.folder, "-o", tmp_path / "r.html", "--regions", "0")
    assert done.exit_code == 0, done.output
    for image in data_of(tmp_path / "r.html")["images"]:
        gone = image["name"].startswith("00001.tar") or image["name"] == "single3.png"
        if image["error"] is None:
            assert (image["thumb"] is None) == gone


def test_a_folder_that_is_not_complete(tmp_path: Path, weights: Path, data: Path) -> None:
    import threading

    job = make_job(tmp_path / "scores", weights, threads=None)
    planned(job, [data])
    assert report(job.folder, "-o", tmp_path / "r.html").exit_code == 2
    stop = threading.Event()
    Worker(job, lambda message: stop.set(), stop).run()
    done = report(job.folder, "-o", tmp_path / "r.html", "--regions", "0")
    assert done.exit_code == 0 and "Only 1 of 5 shards were done" in done.stderr


def test_what_is_no_folder_of_scores(tmp_path: Path) -> None:
    done = report(tmp_path, "-o", tmp_path / "r.html")
    assert done.exit_code == 2 and "is not a folder of scores" in done.stderr


def test_files_are_found_once(scored: Path, tmp_path: Path) -> None:
    keys = [row.image for row in gallery(scored, 10**6).rows if row.score]
    found = find_files(scored, [*keys, "no such key"], tmp_path)
    assert set(found) == set(keys) and len(set(found.values())) == len(keys)


@given(
    st.lists(st.floats(-5, 5, width=32) | st.just(float("nan")), min_size=1, max_size=60),
    st.integers(1, 70),
    st.integers(0, 10),
)
def test_places(values: list[float], most: int, ends: int) -> None:
    raw = np.array(values, np.float32)
    places = _places(raw, most, ends)
    assert len(places) == len(set(places.tolist())) == min(most, len(raw))
    scored = raw[~np.isnan(raw)]
    kept = raw[places][~np.isnan(raw[places])]
    if np.isnan(raw).any():
        assert np.isnan(raw[places]).any()
    if ends and len(kept) >= 2:
        assert kept.min() == scored.min() and kept.max() == scored.max()
