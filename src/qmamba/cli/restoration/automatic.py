"""`qmamba restore --task auto`: each image gets the restoration that it needs; imports torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from qmamba.cli.common import shown, write
from qmamba.cli.display.fidelity import Gains
from qmamba.cli.display.restoration import Counts, restore_all
from qmamba.errors import ImageError
from qmamba.evaluation.restoration.need import restoration_need
from qmamba.images import ImageLayers
from qmamba.restore import Job, Restorer
from qmamba.restore.degradations import TaskName

ENDING = "-restored"
"""What names of results end with beside their images."""


def restore_as_needed(
    load: Callable[..., Restorer],
    jobs: list[Job],
    counts: Counts,
    saving: dict[str, Any],
    original: ImageLayers | None,
    decoded: ImageLayers | None,
    gains: Gains | None,
    max_pixels: int,
) -> None:
    """Measure each image, say in one sentence what it needs, and restore it.

    Args:
        load: ``Restorer.from_pretrained`` with all arguments but the task; called once for each.
        jobs, counts, saving, original, decoded, gains: as for
            :func:`~qmamba.cli.display.restoration.restore_all`.
        max_pixels: largest image that is decoded, in pixels.
    """

    @cache
    def restorer(task: TaskName) -> Restorer:
        # Only the denoiser has a strength.
        return load(task=task) if task == "denoise" else load(task=task, strength=1.0)

    for job in jobs:
        # Where nothing is known, what restores the image finds the same and says so in its line.
        tasks: tuple[TaskName, ...] = ("denoise",)
        passed_over = saving["skip_existing"] and os.path.lexists(job.target)
        if job.error is None and not passed_over:
            try:
                need = restoration_need(job.source, max_pixels=max_pixels)
            except ImageError:
                need = None
            if need is not None:
                tasks = need.tasks
                write(f"{shown(job.source)}: {need.sentence}\n", sys.stdout)
        if not tasks:
            counts.done += 1
            counts.declined += 1
            continue
        restorers = [restorer(task) for task in tasks]
        restore_all(restorers, [job], counts, saving, original, decoded, gains)
