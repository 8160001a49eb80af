"""How far a folder of scores is, from its files alone."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qmamba.errors import DataError
from qmamba.scale.claims import Claims
from qmamba.scale.plan import ScoresFolder
from qmamba.scale.rows import error_kind
from qmamba.scale.shard_file import read_columns, read_footer

RAY_RECORD = "ray.json"
"""File of a folder of scores that says what Ray scores into it."""

RAY_DONE = "ray-done.json"
"""File that a finished run of Ray leaves."""


@dataclass(frozen=True)
class Status:
    """How far a folder of scores is."""

    shards: int
    """Number of shards of the plan; with Ray, which has none, the whole counts as one."""
    done: int
    """Those that have their file."""
    at_work: int
    """Those that a process has claimed."""
    rows: int
    """Rows of the finished shards."""
    errors: dict[str, int]
    """Rows without a score, by kind."""
    rate: float | None
    """Images per second since the first of the present workers began; None without workers."""
    seconds_left: float | None
    """At this rate; None where rate or the number of images left is unknown."""
    damaged: tuple[str, ...]
    """Files of scores that cannot be read or belong to another plan."""

    @property
    def complete(self) -> bool:
        """Whether every shard has its file, and each is sound."""
        return self.done == self.shards and not self.damaged


def read_status(path: str | os.PathLike[str]) -> Status:
    """How far a folder of scores is.

    Raises:
        DataError: it is no folder of scores.
    """
    folder = ScoresFolder(path)
    if is_of_ray(folder):
        return _status_of_ray(folder)
    plan = folder.load()
    rows, finished, damaged = 0, [], []
    errors: Counter[str] = Counter()
    counts: list[int] = []
    left = 0.0
    unknown = 0
    for shard in plan.shards:
        output = folder.output(shard, plan)
        if not output.exists():
            left += shard.count
            unknown += shard.kind == "tar"
            continue
        try:
            footer = read_footer(output)
        except DataError:
            damaged.append(output.name)
            continue
        if footer.plan != plan.hash:
            damaged.append(output.name)
            continue
        finished.append((output.stat().st_mtime, footer.rows))
        rows += footer.rows
        errors.update(footer.errors)
        if shard.kind == "tar":
            counts.append(footer.rows)
    if unknown and counts:
        left += unknown * sum(counts) / len(counts)
    held = {
        name: entry
        for name, entry in Claims(folder).held().items()
        if entry.owner.is_alive() is not False
    }
    started = [entry.started for entry in held.values() if entry.started is not None]
    rate = None
    if started:
        begin = min(started)
        done = sum(count for when, count in finished if when >= begin)
        at = sum(entry.at.first for entry in held.values())
        # Their clocks may be ahead of this one, or it was set back.
        spent = time.time() - begin
        rate = (done + at) / spent if spent > 0 else None
        left -= at
    known = bool(rate) and (not unknown or bool(counts))
    return Status(
        shards=len(plan.shards),
        done=len(finished),
        at_work=len(held),
        rows=rows,
        errors=dict(sorted(errors.items())),
        rate=rate,
        seconds_left=max(0.0, left) / rate if known and rate else None,
        damaged=tuple(damaged),
    )


def score_files(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The files of scores in a folder, in the order of the plan, or of their names without one.

    Raises:
        DataError: it is no folder of scores, a file is damaged, or belongs to another plan.
    """
    folder = ScoresFolder(path)
    if is_of_ray(folder):
        yield from sorted(folder.path.glob("*.parquet"))
        return
    plan = folder.load()
    for shard in plan.shards:
        output = folder.output(shard, plan)
        if not output.exists():
            continue
        if read_footer(output).plan != plan.hash:
            raise DataError(f"{str(output)!r} belongs to another plan; delete it.")
        yield output


def is_of_ray(folder: ScoresFolder) -> bool:
    """Whether Ray scores into the folder, which has no plan then."""
    return (folder.books / RAY_RECORD).exists()


def _status_of_ray(folder: ScoresFolder) -> Status:
    errors: Counter[str] = Counter()
    files = sorted(folder.path.glob("*.parquet"))
    rows = 0
    for path in files:
        column = read_columns(path, ("error",))["error"]
        rows += len(column)
        errors.update(error_kind(error) for error in column if error is not None)
    done = (folder.books / RAY_DONE).exists()
    return Status(
        shards=1,
        done=int(done),
        at_work=0,
        rows=rows,
        errors=dict(sorted(errors.items())),
        rate=None,
        seconds_left=None,
        damaged=(),
    )
