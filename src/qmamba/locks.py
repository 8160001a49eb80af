"""An output belongs to one process: locks that name their owner and outlive no one."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from qmamba.errors import ConfigError, DataError
from qmamba.files import (
    create_exclusively,
    made_folder,
    remove_if_unchanged,
    remove_temporaries,
    require_writable,
)

_KEPT_NAME_BYTES = 200


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
        except (ValueError, TypeError, RecursionError):
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
    """Keep an output file to this process for the length of the block.

    A small file beside it, ``.NAME.lock``, names the process. What a killed process on this machine
    has left is taken over, and its unfinished files are removed. A device or pipe belongs to
    nobody.

    Args:
        path: file that will be written.

    Raises:
        DataError: another process has it, or as for :func:`~qmamba.files.require_writable`.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    require_writable(path)
    if _belongs_to_nobody(target):
        yield
        return
    with _owned(_lock_path(target), path):
        remove_temporaries(target)
        yield


@contextmanager
def owned_outputs(*paths: str | os.PathLike[str] | None) -> Iterator[None]:
    """Keep several files to this process, as :func:`owned_output` does one; None is passed over.

    Raises:
        ConfigError: two of them are one file.
        DataError: another process has one of them, or a place is not writable.
    """
    given: dict[str, Path] = {}
    for path in (Path(path) for path in paths if path is not None):
        target = os.path.realpath(path)
        if target in given and not _belongs_to_nobody(target):
            raise ConfigError(f"{str(path)!r} is given for two outputs; choose two names.")
        given[target] = path
    with ExitStack() as stack:
        for path in given.values():
            stack.enter_context(owned_output(path))
        yield


@contextmanager
def owned_folder(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make a folder where it is missing and keep it to this process for the length of the block.

    The lock lies inside, as ``.qmamba.lock``. A folder that was made and is empty in the end is
    removed again.

    Args:
        path: folder that will be written into.

    Raises:
        DataError: another process has it, or it cannot be made or written.
    """
    path = Path(path)
    with made_folder(path), _owned(path / ".qmamba.lock", path):
        yield


def remove_leftovers(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Remove what killed writes of files have left beside them, except where somebody has one."""
    targets = (Path(os.path.realpath(path)) for path in paths)
    remove_temporaries(*(each for each in targets if not _lock_path(each).exists()))


@contextmanager
def _owned(lock: Path, path: Path) -> Iterator[None]:
    own = Owner.here().to_json()
    _take(lock, path, own)
    try:
        yield
    finally:
        with suppress(OSError):
            if lock.read_bytes() == own:
                lock.unlink()


def _take(lock: Path, path: Path, own: bytes) -> None:
    while not create_exclusively(lock, own, shown=path):
        try:
            found = lock.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(f"Cannot read {str(lock)!r}: {error.strerror}.") from error
        owner = Owner.from_json(found)
        if owner is not None and owner.is_alive() is not False:
            advice = "" if owner.is_alive() else f", or delete {str(lock)!r} if that one is gone"
            if found == own:
                raise DataError(
                    f"Cannot write {str(path)!r}: this process is writing it already; choose"
                    " another output."
                )
            raise DataError(
                f"Cannot write {str(path)!r}: process {owner.pid} on {owner.host!r} is writing it;"
                f" wait until it is done or choose another output{advice}."
            )
        remove_if_unchanged(lock, found)


def _belongs_to_nobody(target: str | os.PathLike[str]) -> bool:
    """Whether something stands there that is written directly, as a device or pipe is."""
    return os.path.exists(target) and not os.path.isfile(target)


def _lock_path(target: Path) -> Path:
    name = os.fsencode(target.name)
    kept = name[:_KEPT_NAME_BYTES].decode(errors="ignore")
    if len(name) > _KEPT_NAME_BYTES:
        # Names that differ in their ends alone are different outputs.
        kept += f".{hashlib.sha256(name).hexdigest()[:12]}"
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
