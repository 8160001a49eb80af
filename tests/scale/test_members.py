"""The images of shards: what tar and Parquet files give, whole and damaged."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from qmamba.errors import DataError
from qmamba.scale import Plan, ScoresFolder, Settings, Sources, make_plan
from qmamba.scale import members as module
from qmamba.scale.members import Member, ShardGone, members
from tests.assess.samples import encoded, write_image
from tests.scale.sets import add, samples, write_tar

SETTINGS = Settings("tiny", "0" * 64, "native", "fp32", 10**6, 1, "parquet")


def found(folder: Path, *inputs: Path) -> list[list[Member]]:
    """The members of each shard that the inputs are planned into."""
    scores = ScoresFolder(folder / "scores")
    plan = make_plan(Sources([str(path) for path in inputs]), SETTINGS, scores, 4)
    return [list(members(shard, plan, scores)) for shard in plan.shards]


def test_a_tar_file(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", samples(3))
    ((first, *rest),) = found(tmp_path, tar)
    assert first.key == "a.tar/000000.png" and first.uid == "0" * 32
    assert first.source == encoded(40, 40, seed=0) and len(rest) == 2


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize("cut", [40, 700, 1500, 2100])
def test_a_tar_file_that_was_cut_short(tmp_path: Path, mode: str, cut: int) -> None:
    path = tmp_path / ("a.tar.gz" if mode == "w:gz" else "a.tar")
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in samples(4):
            add(archive, name, os.urandom(700) if name.endswith("txt") else content)
    content = path.read_bytes()
    # Behind its members a plain tar file has only zeros, up to 10240 bytes.
    end = len(content) if mode == "w:gz" else len(content.rstrip(b"\0"))
    path.write_bytes(content[: end - cut])
    ((*whole, last),) = found(tmp_path, path)
    assert last.key == path.name and "damaged or cut short after" in (last.error or "")
    assert all(member.error is None for member in whole) and len(whole) <= 4
    assert f"after {len(whole)} images" in str(last.error)


def test_what_is_no_tar_file(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"a text" * 300)
    (tmp_path / "b.tar").touch()
    for (only,) in found(tmp_path, tmp_path / "a.tar", tmp_path / "b.tar"):
        assert "damaged or cut short after 0 images" in str(only.error)


def test_rubbish_behind_members(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples(2))
    path.write_bytes(path.read_bytes().rstrip(b"\0").ljust(4096, b"\0")[:4096] + b"x" * 1024)
    ((*_, last),) = found(tmp_path, path)
    assert last.error is not None


def test_links_and_members_that_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "a.png", encoded(40, 40))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"link{kind.decode()}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        add(archive, "b.png", encoded(40, 40))
    ((first, *links, last),) = found(tmp_path, path)
    assert first.error is None and last.error is None
    assert [link.error for link in links] == 3 * [
        "it is a link or a device in the tar file, not a file"
    ]
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    ((first, *_),) = found(tmp_path, path)
    assert "bytes and the limit is 100" in str(first.error)


@pytest.mark.parametrize("form", ["bytes", "hub", "path"])
def test_parquet(tmp_path: Path, form: str) -> None:
    write_image(tmp_path / "x.png", 40, 40)
    content = (tmp_path / "x.png").read_bytes()
    hub = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    column = {
        "bytes": pyarrow.array([content] * 5 + [None]),
        "hub": pyarrow.array(
            [{"bytes": content, "path": "y.png"}] * 4 + [{"bytes": None, "path": "x.png"}, None],
            hub,
        ),
        "path": pyarrow.array(["x.png"] * 5 + [None]),
    }[form]
    uids = [f"{n:032x}" for n in range(5)] + [None]
    table = pyarrow.table({"image": column, "uid": uids, "text": ["caption"] * 6})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    first, second = found(tmp_path, tmp_path / "a.parquet")
    assert [member.key for member in first + second] == [f"a.parquet/{n}" for n in range(6)]
    assert [member.uid for member in first + second] == uids
    for member in (first + second)[:5]:
        source = member.source
        assert (source if isinstance(source, bytes) else Path(source).read_bytes()) == content
    assert second[-1].error == "the row has no image"


def test_parquet_without_images(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ShardGone, match="has no column of images; one of image, bytes"):
        found(tmp_path, tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="is not a Parquet file or is damaged"):
        found(tmp_path, tmp_path / "b.parquet")


def test_keys_when_there_are_several_roots(tmp_path: Path) -> None:
    for name in ("one/set", "two/set", "three"):
        (tmp_path / name).mkdir(parents=True)
        write_image(tmp_path / name / "x.png", 40, 40)
    roots = [tmp_path / name for name in ("one/set", "two/set", "three")]
    keys = [member.key for shard in found(tmp_path, *roots) for member in shard]
    assert keys == ["one/set/x.png", "two/set/x.png", "three/x.png"]
    keys = [member.key for shard in found(tmp_path, *roots[1:]) for member in shard]
    assert keys == ["set/x.png", "three/x.png"]
    files = [roots[2] / "x.png", roots[2] / "x.png"]
    assert [m.key for shard in found(tmp_path, *files) for m in shard] == ["x.png"]


def test_a_list_that_was_changed(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", 40, 40)
    scores = ScoresFolder(tmp_path / "scores")
    plan: Plan = make_plan(Sources([str(tmp_path)]), SETTINGS, scores, 4)
    scores.names_file(plan.shards[0].names).write_bytes(b"/etc/passwd\0")
    with pytest.raises(DataError, match="was changed since it was made"):
        list(members(plan.shards[0], plan, scores))
