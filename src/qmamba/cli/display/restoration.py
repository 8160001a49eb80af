"""Restoring images and telling what became of each, for `qmamba restore`; imports torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from qmamba.cli.common import Progress, counted, shown, write
from qmamba.cli.display.fidelity import Gains, measured
from qmamba.images import ImageLayers
from qmamba.restore import Job, RestoredRow, Restorer, restore_paths


@dataclass
class Counts:
    """What became of the images so far."""

    jobs: int
    done: int = 0
    failed: int = 0
    skipped: int = 0
    declined: int = 0
    unmeasured: int = 0

    def __str__(self) -> str:
        restored = self.done - self.failed - self.skipped - self.declined
        return (
            f"{counted(restored, 'image')} restored"
            + (f", {self.declined} left unchanged" if self.declined else "")
            + (f", {self.skipped} skipped" if self.skipped else "")
            + (f", {self.failed} failed" if self.failed else "")
            + (f", {self.unmeasured} measurements failed" if self.unmeasured else "")
        )


def restore_all(
    restorer: Restorer | Sequence[Restorer],
    jobs: list[Job],
    counts: Counts,
    saving: dict[str, Any],
    original: ImageLayers | None,
    decoded: ImageLayers | None,
    gains: Gains | None,
) -> None:
    """Restore images, with a line for each and a progress display.

    Args:
        restorer: what restores them; several work one after the other.
        jobs: the images.
        counts: takes what became of them.
        saving: arguments of :func:`~qmamba.restore.restore_paths`.
        original: what the one image is compared with; None for no comparison.
        decoded: that image; needed with an original.
        gains: what compares scores; None for no score.
    """
    with ExitStack() as stack:
        progress = Progress(counts.jobs)
        stack.callback(progress.clear)

        def tiles(finished: int, count: int) -> None:
            progress.update(counts.done + finished / count, counts.failed)

        for row in restore_paths(restorer, jobs, **saving, progress=tiles):
            progress.clear()
            write(_line(row) + "\n", sys.stdout)
            if row.restored is not None or row.declined:
                for line, has_figures in measured(row, original, decoded, gains):
                    write(shown(line) + "\n", sys.stdout)
                    counts.unmeasured += not has_figures
            counts.done += 1
            counts.failed += row.error is not None
            counts.skipped += row.skipped
            counts.declined += row.declined
            progress.update(counts.done, counts.failed)


def _line(row: RestoredRow) -> str:
    name = shown(row.image)
    if row.error is not None:
        hint = "; --force replaces it, --skip-existing leaves it" if row.present else ""
        return f"error: {name}: {shown(row.error)}{hint}"
    if row.declined:
        return f"{name}: left as it was, the result is not clearly better"
    if row.restored is None:
        return f"{name}: skipped, {shown(row.output)} exists"
    layers = row.restored.layers
    notes = f"  [{shown('; '.join(row.notes))}]" if row.notes else ""
    size = f"{layers.width}x{layers.height}"
    return f"{name} -> {shown(row.output)}  {size}, {row.seconds:.1f} s{notes}"
