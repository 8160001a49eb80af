"""Who is at work on which shard, and which images workers have died at.

A claim is a file that names the process and says which images it is at. It is stale when the
process is dead on this machine, or when its heartbeat has not changed for some time by the clock of
whoever looks; clocks of different machines are never compared.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qmamba.errors import DataError
from qmamba.files import create_exclusively, make_folder, remove_if_unchanged
from qmamba.locks import Owner
from qmamba.scale.plan import ScoresFolder

STALE_SECONDS = 300.0
"""Seconds without a heartbeat after which the claim of another machine is taken over."""

_MARK = "{:010d} {:010d}\n"
_MARK_BYTES = len(_MARK.format(0, 0))
_BEATS = 6
_OBSERVED = 2
_UNOBSERVED = 3


class Range(NamedTuple):
    """The images that a worker has begun and not finished: the first and the last index."""

    first: int
    last: int


@dataclass(frozen=True)
class Held:
    """What a claim says."""

    owner: Owner
    """The process that made it."""
    at: Range
    """Where it is."""
    started: float | None
    """When the process began to work, in seconds since 1970 by its own clock."""
    content: bytes
    """The claim's file as it was read."""


class Claim:
    """A shard that belongs to this process. Use it as a context manager; it is given up at the end.

    Args:
        path: file of the claim.
        content: what the file was made with.
        beat: seconds between two heartbeats.
    """

    def __init__(self, path: Path, content: bytes, beat: float) -> None:
        self._path = path
        self._owner = content[_MARK_BYTES:]
        self._file = os.open(path, os.O_RDWR)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(beat,), daemon=True)
        self._thread.start()

    def mark(self, first: int, last: int) -> None:
        """Say which images are begun and not finished."""
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, _MARK.format(first, last).encode())

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        os.close(self._file)
        with suppress(OSError):
            content = self._path.read_bytes()
            if content[_MARK_BYTES:] == self._owner:
                remove_if_unchanged(self._path, content)

    def _beat(self, pause: float) -> None:
        while not self._ended.wait(pause):
            with suppress(OSError):
                # The file that was opened, and not one that has taken its place.
                os.utime(self._file if os.utime in os.supports_fd else self._path)


class Claims:
    """The claims on the shards of a folder.

    Args:
        folder: the folder of scores.
        stale_seconds: see :data:`STALE_SECONDS`.
        clock: seconds that only ever grow.
        alone: no other machine is entitled to the shards of this one, so its claims are left over
            from a start of the same part and are stale at once.
    """

    def __init__(
        self,
        folder: ScoresFolder,
        *,
        stale_seconds: float = STALE_SECONDS,
        alone: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._stale = stale_seconds
        self._alone = alone
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}
        self._started = time.time()
        make_folder(folder.claims)

    def take(self, shard: str) -> Claim | None:
        """Claim a shard; None where another process has it."""
        path = self._folder.claims / shard
        content = _MARK.format(0, 0).encode() + Owner.here().to_json()
        content += f"{self._started:.3f} {secrets.token_hex(8)}\n".encode()
        while not create_exclusively(path, content):
            held = self.read(shard)
            if held is not None and not self._is_stale(shard, held):
                return None
            if held is not None and remove_if_unchanged(path, held.content):
                self.record_death(shard, held.at, observed=False)
        return Claim(path, content, self._stale / _BEATS)

    def read(self, shard: str) -> Held | None:
        """The claim on a shard; None where there is none."""
        path = self._folder.claims / shard
        try:
            content = path.read_bytes()
        except OSError:
            return None
        who, _, when = content[_MARK_BYTES:].partition(b"\n")
        owner = Owner.from_json(who)
        try:
            first, last = map(int, content[:_MARK_BYTES].split())
            started = float(when.split()[0])
        except (ValueError, IndexError):
            first, last, started = 0, 0, None
        # A file that names nobody is what a machine has left that died while it wrote.
        return Held(owner or Owner(1, ""), Range(first, last), started, content)

    def held(self) -> dict[str, Held]:
        """All claims, by shard."""
        found = {name: self.read(name) for name in _names(self._folder.claims)}
        return {name: held for name, held in found.items() if held is not None}

    def clear_stale(self) -> bool:
        """Remove the claims that have become stale; whether there were any."""
        cleared = False
        for shard, held in self.held().items():
            path = self._folder.claims / shard
            if self._is_stale(shard, held) and remove_if_unchanged(path, held.content):
                self.record_death(shard, held.at, observed=False)
                cleared = True
        return cleared

    def bury(self, pid: int) -> list[str]:
        """Remove the claims of a worker whose death was seen; the shards."""
        here = Owner.here()
        buried = []
        for shard, held in self.held().items():
            if (held.owner.pid, held.owner.host) == (pid, here.host):
                remove_if_unchanged(self._folder.claims / shard, held.content)
                self.record_death(shard, held.at, observed=True)
                buried.append(shard)
        return buried

    def record_death(self, shard: str, at: Range, *, observed: bool) -> None:
        """Keep where a worker died; on a full disk that is forgotten."""
        line = json.dumps({"first": at.first, "last": at.last, "observed": observed})
        with suppress(OSError, DataError):
            make_folder(self._folder.deaths)
            with open(self._folder.deaths / shard, "a") as stream:
                stream.write(line + "\n")

    def deaths(self, shard: str) -> Deaths:
        """Where workers have died in a shard."""
        ranges = []
        with suppress(OSError):
            for line in (self._folder.deaths / shard).read_text().splitlines():
                with suppress(ValueError, TypeError, KeyError):
                    entry = json.loads(line)
                    at = Range(int(entry["first"]), int(entry["last"]))
                    ranges.append((at, bool(entry["observed"])))
        return Deaths(tuple(ranges))

    def forget_deaths(self, shard: str) -> None:
        """Forget them, once the shard is done."""
        (self._folder.deaths / shard).unlink(missing_ok=True)

    def _is_stale(self, shard: str, held: Held) -> bool:
        alive = held.owner.is_alive()
        if alive is False or (alive is None and self._alone):
            return True
        try:
            beat = (self._folder.claims / shard).stat().st_mtime_ns
        except OSError:
            return False
        seen, since = self._seen.get(shard, (None, 0.0))
        if seen != beat:
            self._seen[shard] = (beat, self._clock())
            return False
        return self._clock() - since >= self._stale


@dataclass(frozen=True)
class Deaths:
    """Where workers have died in a shard."""

    ranges: tuple[tuple[Range, bool], ...]
    """Images that were begun, and whether the death was seen by who watched the worker."""

    def suspect(self, index: int) -> bool:
        """Whether an image may be the cause, so that it should be worked on alone."""
        return any(at.first <= index <= at.last for at, _ in self.ranges)

    def is_fatal(self, index: int) -> bool:
        """Whether an image has ended workers often enough to be given up.

        Twice where the death was seen; once more where the whole machine went, which has other
        causes more often than not. The last time the image was worked on alone.
        """
        here = [(at, seen) for at, seen in self.ranges if at.first <= index <= at.last]
        alone = sum(at.first == at.last for at, _ in here)
        seen_alone = any(at.first == at.last and seen for at, seen in here)
        observed = sum(seen for _, seen in here)
        return (observed >= _OBSERVED and seen_alone) or (len(here) >= _UNOBSERVED and alone >= 2)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return []
