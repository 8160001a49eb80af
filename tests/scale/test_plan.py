"""Plans: what they say, and how they are compared with what is asked for later."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qmamba.errors import ConfigError, DataError
from qmamba.scale import Plan, ScoresFolder, Settings, Sources, make_plan
from tests.scale.sets import samples, write_tar

SETTINGS = Settings("tiny", "0" * 64, "native", "fp32", 10**6, 1, "parquet")


def plan_of(folder: Path, data: Path, size: int = 4, settings: Settings = SETTINGS) -> Plan:
    scores = ScoresFolder(folder)
    return make_plan(Sources([str(data)], without=folder), settings, scores, size)


def test_a_plan_and_its_file(tmp_path: Path, data: Path) -> None:
    folder = ScoresFolder(tmp_path / "scores")
    plan = folder.save(plan_of(folder.path, data))
    assert folder.load() == plan and folder.load().hash == plan.hash
    assert [s.name for s in plan.shards] == ["00000", "00001", "00002", "00003", "00004"]
    assert [s.kind for s in plan.shards] == ["tar", "tar", "tar", "names", "names"]
    assert sum(s.count for s in plan.shards) == 8
    assert str(data) not in json.dumps({**plan.to_json(), "roots": None})
    assert folder.save(plan_of(folder.path, data)) == plan


def test_tar_files_alone_keep_their_names(tmp_path: Path) -> None:
    for number in (7, 3):
        write_tar(tmp_path / f"{number:05}.tar", samples(1))
    assert [s.name for s in plan_of(tmp_path / "scores", tmp_path).shards] == ["00003", "00007"]


def test_a_plan_does_not_depend_on_where_the_data_lie(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_tar(tmp_path / "a" / "x.tar", samples(1))
    here = plan_of(tmp_path / "scores", tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    there = plan_of(tmp_path / "scores", tmp_path / "b")
    assert here.hash == there.hash and here.roots != there.roots
    assert here.difference(there) is None


def test_differences_are_named(tmp_path: Path, data: Path) -> None:
    (tmp_path / "set").mkdir()
    tar = write_tar(tmp_path / "set" / "x.tar", samples(1))
    before = plan_of(tmp_path / "scores", tmp_path / "set")

    def difference(change: Callable[[], Any], **options: Any) -> str | None:
        change()
        return before.difference(plan_of(tmp_path / "scores", tmp_path / "set", **options))

    def nothing() -> None:
        pass

    assert difference(nothing) is None
    assert difference(nothing, size=5) == "the shard size was 4 and is 5 now"
    other = replace(SETTINGS, sha256="1" * 64)
    assert difference(nothing, settings=other) == f"sha256 was {'0' * 64!r} and is {'1' * 64!r} now"
    old = replace(SETTINGS, version="0.0.1")
    assert "version was" in str(difference(nothing, settings=old))
    grown = difference(lambda: tar.write_bytes(tar.read_bytes() + b"\0" * 512))
    assert grown == "1 of its shards changed, appeared or are gone ('x.tar')"
    new = difference(lambda: write_tar(tmp_path / "set" / "y.tar", samples(1)))
    assert new == "2 of its shards changed, appeared or are gone ('x.tar', 'y.tar')"


@pytest.mark.parametrize(
    "change",
    [
        {"layout": 99},
        {"shards": [{"name": "../x", "kind": "tar", "root": 0}]},
        {"shards": [{"name": "x", "kind": "tar", "root": 0, "path": "/etc/passwd"}]},
        {"shards": [{"name": "x", "kind": "tar", "root": 0, "path": "a/../../x.tar"}]},
        {"shards": [{"name": "x", "kind": "tar", "root": 5}]},
        {"shards": [{"name": "x", "kind": "tar", "root": 0, "size": "1"}]},
        {"shards": [{"name": "x", "kind": "names", "root": 0, "names": "../../x"}]},
        {"shards": [{"name": "x", "kind": "names", "root": 0, "other": 1}]},
        {"shards": 3},
        {"settings": {}},
    ],
)
def test_plans_that_are_not_sound(tmp_path: Path, data: Path, change: dict[str, Any]) -> None:
    folder = ScoresFolder(tmp_path / "scores")
    content = folder.save(plan_of(folder.path, data)).to_json()
    folder.plan_file.write_text(json.dumps(content | change))
    with pytest.raises(DataError, match=r"is damaged|another version"):
        folder.load()


def test_folders_without_a_plan(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder of scores"):
        ScoresFolder(tmp_path).load()
    with pytest.raises(DataError, match="No images, tar or Parquet files found"):
        plan_of(tmp_path / "scores", tmp_path)
    with pytest.raises(ConfigError, match="is an address on a network"):
        Sources(["s3://bucket/x.tar"])


def test_a_list_on_standard_input(tmp_path: Path, data: Path) -> None:
    names = [data / "single1.png", data / "00000.tar", data / "single0.png", data / "single1.png"]
    stream = io.BytesIO("".join(f"{name}\n" for name in names).encode())
    found = [entry.name for entry in Sources(["-"], stdin=stream)]
    assert found == ["single1.png", "00000.tar", "single0.png"]


def test_an_old_plan_is_put_aside(tmp_path: Path, data: Path) -> None:
    folder = ScoresFolder(tmp_path / "scores")
    folder.save(plan_of(folder.path, data))
    with pytest.raises(DataError, match=r"holds the scores of another plan: the shard size"):
        folder.save(plan_of(folder.path, data, size=5))
    assert folder.put_aside() == tmp_path / "scores.replaced-1"
    assert folder.save(plan_of(folder.path, data, size=5)).shard_size == 5
