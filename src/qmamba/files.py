"""Writing a file so that a reader sees the old content or the new content and nothing between."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TextIO, overload

from qmamba.errors import DataError

NO_SPACE = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}
"""Numbers of the OSErrors of a full disk."""

_KEPT_NAME_BYTES = 100


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
            f"cannot make the folder {str(path)!r}: {reason}, choose another one"
        ) from error


@dataclass(frozen=True)
class Owner:
    """The process that an output belongs to."""

    pid: int
    """Its number."""
    host: str
    """The machine that it runs on."""
    born: str = ""
    """When it began, where the system tells: numbers of processes are used again."""

    @classmethod
    def here(cls) -> Owner:
        """The process that asks."""
        pid = os.getpid()
        return cls(pid, _host(), _birth(pid) or "")

    @classmethod
    def from_json(cls, text: bytes) -> Owner | None:
        """What :meth:`to_json` wrote; None where the text is something else."""
        try:
            owner = cls(**json.loads(text))
        except (ValueError, TypeError):
            return None
        sound = type(owner.pid) is int and owner.pid > 0
        return (
            owner if sound and all(isinstance(s, str) for s in (owner.host, owner.born)) else None
        )

    def to_json(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    def is_alive(self) -> bool | None:
        """Whether the process still runs; None where it would run on another machine."""
        if self.host != _host():
            return None
        if os.name != "posix":
            # Asking for a process that way would end it elsewhere.
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except (OverflowError, OSError):
            pass
        born = _birth(self.pid)
        return born is None or not self.born or born == self.born


@contextmanager
def owned_output(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep an output to this process for the length of the block.

    A small file beside the output, ``.NAME.lock``, names the process; for a folder that exists it
    lies inside as ``.qmamba.lock``. What a killed process on this machine has left is taken over.

    Args:
        path: file or folder that will be written.

    Raises:
        DataError: another process has it, or the place is not writable.
    """
    path = Path(path)
    lock, own = _lock_path(path), Owner.here().to_json()
    _take(lock, path, own)
    try:
        yield
    finally:
        with suppress(OSError):
            if lock.read_bytes() == own:
                lock.unlink()


def _take(lock: Path, path: Path, own: bytes) -> None:
    while not create_exclusively(lock, own):
        try:
            found = lock.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(f"Cannot read {str(lock)!r}: {_reason(error)}.") from error
        owner = Owner.from_json(found)
        if owner is not None and owner.is_alive() is not False:
            advice = "" if owner.is_alive() else f", or delete {str(lock)!r} if that one is gone"
            raise DataError(
                f"Cannot write {str(path)!r}: process {owner.pid} on {owner.host!r} is writing it;"
                f" wait until it is done or choose another output{advice}."
            )
        remove_if_unchanged(lock, found)


def create_exclusively(path: Path, content: bytes) -> bool:
    """Make a file that others see with its whole content at once; False if there is one already.

    Raises:
        DataError: the place is not writable.
    """
    target = Path(path)
    descriptor, temporary = _temporary(target, path, 0)
    try:
        with _reported(path, everything=True), os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError:
            return _create_in_steps(target, content)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _create_in_steps(path: Path, content: bytes) -> bool:
    """As :func:`create_exclusively`, where the file system has no hard links."""
    with _reported(path, everything=True):
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
    aside = path.with_name(f"{_start(path)}{secrets.token_hex(6)}.tmp")
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


def _lock_path(path: Path) -> Path:
    target = Path(os.path.realpath(path))
    if target.is_dir():
        return target / ".qmamba.lock"
    kept = os.fsencode(target.name)[: 2 * _KEPT_NAME_BYTES].decode(errors="ignore")
    return target.with_name(f".{kept}.lock")


@cache
def _host() -> str:
    return socket.gethostname()


def _birth(pid: int) -> str | None:
    """What tells a process from an earlier one of the same number; None where nothing does."""
    try:
        # The name of a process, in parentheses, may hold spaces itself.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return f"{boot}:{fields[19]}" if len(fields) > 19 else None


def remove_temporaries(path: Path) -> None:
    """Remove what killed writes of a file have left beside it; no process may be writing it."""
    name = re.compile(rf"{re.escape(_start(path))}[0-9a-f]{{12}}\.tmp")
    for entry in path.parent.iterdir():
        if name.fullmatch(entry.name):
            entry.unlink(missing_ok=True)


def _start(target: Path) -> str:
    """What the names of a file's temporaries begin with."""
    # File systems count bytes; the character that the cut goes through is left out.
    return f".{os.fsencode(target.name)[:_KEPT_NAME_BYTES].decode(errors='ignore')}."


def _temporary(target: Path, shown: Path, permissions: int) -> tuple[int, Path]:
    """A new file beside the target, open for writing."""
    temporary = target.with_name(f"{_start(target)}{secrets.token_hex(6)}.tmp")
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
                f"cannot write {str(shown)!r}: the folder {str(target.parent)!r} does not exist, "
                "create it first"
            ) from None
        return 0
    except (OSError, ValueError) as error:
        raise DataError(f"cannot write {str(shown)!r}: {_reason(error)}") from error
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"cannot write {str(shown)!r}: it is a folder, give a file name")
    return stat.S_IMODE(status.st_mode) if stat.S_ISREG(status.st_mode) else None


@contextmanager
def _reported(path: Path, *, everything: bool = False) -> Iterator[None]:
    """Turn a full disk (or, with `everything`, any OSError) into one clear sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DataError(
                f"cannot write {str(path)!r}: no space left there, free some space and try again"
            ) from error
        if everything:
            raise DataError(f"cannot write {str(path)!r}: {_reason(error)}") from error
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
