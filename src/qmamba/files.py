"""Writing a file so that a reader sees the old content or the new content and nothing between."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TextIO, overload

from qmamba.errors import DataError

NO_SPACE = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}
"""Numbers of the OSErrors of a full disk."""

_KEPT_NAME_BYTES = 100
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{12}\.tmp", re.DOTALL)
_RANDOM_LENGTH = len("0123456789ab.tmp")


@overload
def atomic_write(
    path: str | os.PathLike[str], mode: Literal["wb"] = "wb"
) -> AbstractContextManager[BinaryIO]: ...


@overload
def atomic_write(
    path: str | os.PathLike[str],
    mode: Literal["w"],
    *,
    encoding: str = "utf-8",
    newline: str | None = None,
) -> AbstractContextManager[TextIO]: ...


def atomic_write(
    path: str | os.PathLike[str],
    mode: Literal["wb", "w"] = "wb",
    *,
    encoding: str = "utf-8",
    newline: str | None = None,
) -> AbstractContextManager[Any]:
    """Open `path` for writing; the file changes only when the block ends without an error.

    The block writes a temporary file in the same folder, which is flushed to the disk and then
    renamed over `path`.  Whatever is raised inside the block passes through, `path` keeps its old
    content and the temporary file is removed.  An existing file keeps its permission bits; a
    symbolic link stays and its target is replaced.  A device or pipe (`/dev/stdout`) cannot be
    replaced and is written directly.

    Args:
        path: File to create or replace; its folder must exist.
        mode: "wb" yields a binary stream, "w" a text stream.
        encoding: Text encoding (mode "w").
        newline: As in `open` (mode "w"); pass "" for the `csv` module.

    Raises:
        DataError: the folder is missing, the path is a folder, the place is not writable, or the
            disk is full.
    """
    text: dict[str, Any] = {"encoding": encoding, "newline": newline} if mode == "w" else {}
    return _atomic_write(Path(path), mode, text)


@contextmanager
def _atomic_write(path: Path, mode: str, text: dict[str, Any]) -> Iterator[IO[Any]]:
    target = Path(os.path.realpath(path))
    permissions = _permissions(target, path)
    if permissions is None:
        with _reported(path), open(target, mode, **text) as stream:
            yield stream
        return
    descriptor, temporary = _temporary(target, path, permissions)
    try:
        with _reported(path), os.fdopen(descriptor, mode, **text) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        with _reported(path, everything=True):
            if permissions:
                os.chmod(temporary, permissions)
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def require_writable(path: str | os.PathLike[str]) -> None:
    """Find out before long work whether :func:`atomic_write` will be able to begin.

    Args:
        path: File that will be created or replaced; it is not touched.

    Raises:
        DataError: as for :func:`atomic_write`.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    permissions = _permissions(target, path)
    if permissions is not None:
        descriptor, temporary = _temporary(target, path, permissions)
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


@contextmanager
def made_folder(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make a folder, and those above it, for the length of the block and for what it writes there.

    What was made and is empty in the end is removed again.

    Raises:
        DataError: as for :func:`make_folder`.
    """
    path = Path(path)
    missing = [each for each in (path, *path.parents) if not os.path.lexists(each)]
    make_folder(path)
    try:
        yield
    finally:
        with suppress(OSError):
            for each in missing:
                each.rmdir()


def make_folder(path: Path) -> None:
    """Make a folder and those above it where they are missing.

    Raises:
        DataError: a file has its name, or the place is not writable.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else _reason(error)
        raise DataError(
            f"Cannot make the folder {str(path)!r}: {reason}, choose another one"
        ) from error


def create_exclusively(path: Path, content: bytes, *, shown: Path | None = None) -> bool:
    """Make a file that others see with its whole content at once; False if there is one already.

    Args:
        path: the file.
        content: its bytes.
        shown: what errors name instead of the file.

    Raises:
        DataError: the place is not writable.
    """
    target = Path(path)
    shown = shown or target
    descriptor, temporary = _temporary(target, shown, 0)
    try:
        with _reported(shown, everything=True), os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError:
            return _create_in_steps(target, content, shown)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _create_in_steps(path: Path, content: bytes, shown: Path) -> bool:
    """As :func:`create_exclusively`, where the file system has no hard links."""
    with _reported(shown, everything=True):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
        except OSError:
            # An empty file would stand in the way and name nobody.
            path.unlink(missing_ok=True)
            raise
    return True


def remove_if_unchanged(path: Path, content: bytes) -> bool:
    """Remove a file if it still has the content; False if another process was faster.

    Of several processes that want to remove the same file one succeeds, and a file that has taken
    its place since stays.
    """
    aside = path.with_name(_temporary_name(path))
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    try:
        if aside.read_bytes() == content:
            return True
        with suppress(FileExistsError):
            os.link(aside, path)
        return False
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def temporary_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder beside a file, for what will be renamed to it; it is removed in the end.

    Raises:
        DataError: the place is not writable.
    """
    target = Path(os.path.realpath(path))
    folder = target.with_name(_temporary_name(target))
    with _reported(Path(path), everything=True):
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_temporaries(*paths: Path) -> None:
    """Remove what killed writes of files have left beside them; no process may be writing them."""
    starts: dict[Path, set[str]] = {}
    for path in paths:
        starts.setdefault(path.parent, set()).add(_start(path))
    for folder, names in starts.items():
        with suppress(OSError):
            for entry in list(os.scandir(folder)):
                if _TEMPORARY.fullmatch(entry.name) and entry.name[:-_RANDOM_LENGTH] in names:
                    _remove(entry)


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            os.unlink(entry.path)


def _start(target: Path) -> str:
    """What the names of a file's temporaries begin with."""
    # File systems count bytes; the character that the cut goes through is left out.
    return f".{os.fsencode(target.name)[:_KEPT_NAME_BYTES].decode(errors='ignore')}."


def _temporary_name(target: Path) -> str:
    return f"{_start(target)}{secrets.token_hex(6)}.tmp"


def _temporary(target: Path, shown: Path, permissions: int) -> tuple[int, Path]:
    """A new file beside the target, open for writing."""
    temporary = target.with_name(_temporary_name(target))
    with _reported(shown, everything=True):
        # os.open applies the umask to a new file, which tempfile's private 0600 files do not.
        descriptor = os.open(
            temporary,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0),
            permissions or 0o666,
        )
    return descriptor, temporary


def _permissions(target: Path, shown: Path) -> int | None:
    """Permission bits of the present file, 0 for a new file, None for a device or pipe."""
    try:
        status = target.stat()
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise DataError(
                f"Cannot write {str(shown)!r}: the folder {str(target.parent)!r} does not exist, "
                "create it first."
            ) from None
        return 0
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot write {str(shown)!r}: {_reason(error)}") from error
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"Cannot write {str(shown)!r}: it is a folder, give a file name.")
    return stat.S_IMODE(status.st_mode) if stat.S_ISREG(status.st_mode) else None


@contextmanager
def _reported(path: Path, *, everything: bool = False) -> Iterator[None]:
    """Turn a full disk (or, with `everything`, any OSError) into one clear sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DataError(
                f"Cannot write {str(path)!r}: no space left there, free some space and try again"
            ) from error
        if everything:
            raise DataError(f"Cannot write {str(path)!r}: {_reason(error)}") from error
        raise


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable where the system lets a folder be synced."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        # Some network file systems refuse to sync a folder; the file itself is already safe.
        pass
    finally:
        os.close(descriptor)
