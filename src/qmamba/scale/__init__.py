"""Millions of images: plans, shards, workers that may die, and subsets by score.

A folder of scores begins with a plan (:func:`make_plan`). Workers (:class:`Runner` starts them)
claim its shards, and every finished shard is one file that appears at once. :func:`read_status`
says how far that is, and :func:`select` makes subsets of it. What looks at such a folder imports
no torch, so workers are imported when they are used.
"""

from typing import TYPE_CHECKING

from qmamba.scale.plan import (
    DEFAULT_SHARD_SIZE,
    Plan,
    ScoresFolder,
    Settings,
    Shard,
    make_plan,
)
from qmamba.scale.sources import Sources
from qmamba.scale.status import Status, read_status

if TYPE_CHECKING:
    from qmamba.scale.runner import Outcome, Runner, State
    from qmamba.scale.worker import Job

__all__ = [
    "DEFAULT_SHARD_SIZE",
    "Job",
    "Outcome",
    "Plan",
    "Runner",
    "ScoresFolder",
    "Settings",
    "Shard",
    "Sources",
    "State",
    "Status",
    "make_plan",
    "read_status",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in ("Job", "Outcome", "Runner", "State"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from qmamba.scale import runner

        return getattr(runner, name)
