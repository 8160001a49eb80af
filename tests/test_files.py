from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from qmamba.errors import DataError
from qmamba.files import (
    atomic_write,
    create_exclusively,
    make_folder,
    remove_if_unchanged,
    remove_temporaries,
    require_writable,
)


def test_binary_and_text(tmp_path: Path) -> None:
    path = tmp_path / "new.bin"
    with atomic_write(path) as stream:
        stream.write(b"\0\1\2")
        assert not path.exists()
    assert path.read_bytes() == b"\0\1\2"
    with atomic_write(str(path), "w", newline="") as text:
        text.write("é\r\n")
        assert path.read_bytes() == b"\0\1\2"
    assert path.read_bytes() == "é\r\n".encode()
    assert os.listdir(tmp_path) == ["new.bin"]


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), OSError("other")])
def test_an_error_keeps_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(type(error)) as caught, atomic_write(path, "w") as stream:
        stream.write("new")
        raise error
    assert caught.value is error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_an_error_leaves_no_new_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "new.bin") as stream:
        stream.write(b"part")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_missing_folder_and_folder_as_file(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"absent' does not exist, create it first"),
        atomic_write(tmp_path / "absent" / "file"),
    ):
        pass
    with pytest.raises(DataError, match="it is a folder"), atomic_write(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write"), atomic_write(tmp_path / "file" / "below"):
        pass


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(DataError, match=r"file': no space left there"), atomic_write(path) as file:
        file.write(b"new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_place_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DataError, match="Permission denied"), atomic_write(tmp_path / "file"):
        pass


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions and devices")
def test_permissions_links_and_devices(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    with atomic_write(link, "w") as stream:
        stream.write("new")
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    plain = tmp_path / "plain"
    plain.write_text("")
    with atomic_write(tmp_path / "fresh") as fresh:
        fresh.write(b"")
    assert (tmp_path / "fresh").stat().st_mode == plain.stat().st_mode
    with atomic_write(os.devnull) as null:
        null.write(b"gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize("name", ["图" * 80 + ".png", "aé" * 83 + ".png", "x" * 251 + ".png"])
def test_long_names(tmp_path: Path, name: str) -> None:
    with atomic_write(tmp_path / name, "w") as stream:
        stream.write("whole")
        (temporary,) = os.listdir(tmp_path)
        temporary.encode()
    assert os.listdir(tmp_path) == [name]


def test_folders_are_made(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"Cannot make the folder .*file': it is a file, choose"):
        make_folder(tmp_path / "file")
    with pytest.raises(DataError, match="Cannot make the folder"):
        make_folder(tmp_path / "file" / "below")


def test_writable_is_known_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.csv"
    require_writable(path)
    path.write_text("old")
    require_writable(path)
    require_writable(os.devnull)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]
    for wrong, message in (
        (tmp_path, "it is a folder"),
        (tmp_path / "absent" / "file", "does not exist"),
        (path / "below", "Cannot write"),
        (tmp_path / ("x" * 260 + ".png"), "Cannot write"),
    ):
        with pytest.raises(DataError, match=message):
            require_writable(wrong)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        require_writable(path)


def test_what_a_killed_write_leaves(tmp_path: Path) -> None:
    stale = tmp_path / ".run.pt.0123456789ab.tmp"
    others = [tmp_path / name for name in ("run.pt", ".run.json.0123456789ab.tmp", ".run.pt.tmp")]
    for path in (stale, *others):
        path.touch()
    remove_temporaries(tmp_path / "run.pt")
    assert not stale.exists() and all(path.exists() for path in others)


def test_exclusive_creation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    assert create_exclusively(path, b"first") and not create_exclusively(path, b"second")
    assert path.read_bytes() == b"first"
    assert not remove_if_unchanged(path, b"second") and path.read_bytes() == b"first"
    assert remove_if_unchanged(path, b"first") and not remove_if_unchanged(path, b"first")

    def no_links(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    assert create_exclusively(path, b"first") and not create_exclusively(path, b"second")
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(DataError, match="Cannot write"):
        create_exclusively(tmp_path / "absent" / "file", b"")
