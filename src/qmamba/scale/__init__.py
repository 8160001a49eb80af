"""Millions of images: plans, shards, workers that may die, and subsets by score.

A folder of scores begins with a plan (:func:`make_plan`). Workers (:class:`Runner` starts them)
claim its shards, and every finished shard is one file that appears at once. :func:`read_status`
says how far that is, and :func:`select` makes subsets of it.
"""

from qmamba.scale.plan import (
    DEFAULT_SHARD_SIZE,
    Plan,
    ScoresFolder,
    Settings,
    Shard,
    make_plan,
)
from qmamba.scale.runner import Outcome, Runner, State
from qmamba.scale.sources import Sources
from qmamba.scale.status import Status, read_status
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
