"""Locks of outputs: one owner, who is named, and none that outlives its process."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qmamba.errors import ConfigError, DataError
from qmamba.locks import Owner, owned_folder, owned_output, owned_outputs, remove_leftovers
from tests.owners import ENVIRONMENT, owner_of


def test_an_output_has_one_owner(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    with owned_output(path):
        with (
            pytest.raises(DataError, match="this process is writing it already"),
            owned_output(path),
        ):
            pass
        with owned_output(tmp_path / "other.csv"):
            pass
        assert os.listdir(tmp_path) == [".scores.csv.lock"]
    assert os.listdir(tmp_path) == []
    with pytest.raises(DataError, match="it is a folder, give a file name"), owned_output(tmp_path):
        pass


@pytest.mark.skipif(os.name != "posix", reason="asks for processes as POSIX does")
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    code = (
        "import os, signal, sys; from qmamba.locks import owned_output\n"
        "with owned_output(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, path], env=ENVIRONMENT).returncode == -9
    assert os.listdir(tmp_path) == [".scores.csv.lock"]
    with owned_output(path):
        pass
    assert os.listdir(tmp_path) == []


def test_whose_lock_is_taken_over(tmp_path: Path) -> None:
    path, lock = tmp_path / "scores.csv", tmp_path / ".scores.csv.lock"
    here = Owner.here()
    if here.born:
        # The same number, but another process.
        lock.write_bytes(replace(here, born="before").to_json())
        with owned_output(path):
            pass
    lock.write_bytes(b"")
    with owned_output(path):
        pass
    lock.write_bytes(replace(here, host="elsewhere").to_json())
    with (
        pytest.raises(DataError, match=r"or delete '.*\.lock' if that one is gone"),
        owned_output(path),
    ):
        pass
    assert lock.exists()


def test_a_lock_that_was_taken_over_stays(tmp_path: Path) -> None:
    path, lock = tmp_path / "scores.csv", tmp_path / ".scores.csv.lock"
    with owned_output(path):
        lock.write_bytes(b"of another")
    assert lock.read_bytes() == b"of another"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[" * 100_000,
        b"\xff",
        b"[]",
        b"3",
        b'{"pid": 0, "host": "a"}',
        b'{"pid": "1", "host": "a"}',
    ],
)
def test_what_names_no_owner(text: bytes) -> None:
    assert Owner.from_json(text) is None


def test_another_process_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    with (
        owner_of(path, is_folder=False) as process,
        pytest.raises(DataError, match=rf"process {process.pid} on '.+' is writing it; wait"),
        owned_output(path),
    ):
        pass
    with owned_output(path):
        pass


def test_several_outputs(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    with owned_outputs(first, None, second):
        assert sorted(os.listdir(tmp_path)) == [".a.lock", ".b.lock"]
    with owned_output(second):
        with pytest.raises(DataError, match=r"'.*b': this process"), owned_outputs(first, second):
            pass
        assert os.listdir(tmp_path) == [".b.lock"]
    with (
        pytest.raises(ConfigError, match="given for two outputs"),
        owned_outputs(first, tmp_path / "." / "a"),
    ):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs a device")
def test_a_device_belongs_to_nobody(tmp_path: Path) -> None:
    link = tmp_path / "scores.csv"
    link.symlink_to("/dev/null")
    with owned_outputs(link, "/dev/null"), owned_output(link):
        assert os.listdir(tmp_path) == ["scores.csv"]


def test_long_names_that_differ_in_their_ends(tmp_path: Path) -> None:
    first, second = (tmp_path / ("ü" * 110 + end) for end in ("a.csv", "b.csv"))
    with owned_output(first), owned_output(second):
        assert len(os.listdir(tmp_path)) == 2


def test_a_folder_with_its_owner(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with owned_folder(folder):
        assert os.listdir(folder) == [".qmamba.lock"]
        with pytest.raises(DataError, match="this process"), owned_folder(folder):
            pass
    assert os.listdir(tmp_path) == []
    with owned_folder(folder):
        (folder / "file").touch()
    assert os.listdir(folder) == ["file"]
    with pytest.raises(DataError, match="it is a file"), owned_folder(folder / "file"):
        pass


def test_leftovers_of_killed_writes(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "c.png"]
    for name in names:
        (tmp_path / f".{name}.0123456789ab.tmp").touch()
    (tmp_path / ".a.png.abcdef012345.tmp").mkdir()
    (tmp_path / ".a.png.abcdef012345.tmp" / "a.png").touch()
    with owned_output(tmp_path / "b.png"):
        (tmp_path / ".b.png.0123456789ab.tmp").touch()
        remove_leftovers(tmp_path / name for name in names[:2])
        left = {".b.png.0123456789ab.tmp", ".b.png.lock", ".c.png.0123456789ab.tmp"}
        assert set(os.listdir(tmp_path)) == left
    with owned_output(tmp_path / "c.png"):
        assert not (tmp_path / ".c.png.0123456789ab.tmp").exists()


def test_where_no_lock_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for place, message in (("absent/a.csv", "create it first"), ("file/a.csv", "Not a directory")):
        with pytest.raises(DataError, match=message), owned_output(tmp_path / place):
            pass

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    for owned, path in ((owned_output, tmp_path / "a.csv"), (owned_folder, tmp_path)):
        with (
            pytest.raises(DataError, match=rf"Cannot write '{path}': Permission denied"),
            owned(path),
        ):
            pass
