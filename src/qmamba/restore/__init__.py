"""Restoration of pictures: larger, without noise, without JPEG artefacts."""

from qmamba.restore.attempts import Cancelled, Progress
from qmamba.restore.catalogue import Wish, find_weights
from qmamba.restore.folder import (
    FORMATS,
    Job,
    RestoredRow,
    Source,
    plan_jobs,
    restore_paths,
    target_name,
)
from qmamba.restore.restored import RestoredImage
from qmamba.restore.restorer import Picture, Restorer

__all__ = [
    "FORMATS",
    "Cancelled",
    "Job",
    "Picture",
    "Progress",
    "RestoredImage",
    "RestoredRow",
    "Restorer",
    "Source",
    "Wish",
    "find_weights",
    "plan_jobs",
    "restore_paths",
    "target_name",
]
