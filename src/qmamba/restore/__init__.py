"""Restoration of images: larger, without noise, without JPEG artifacts."""

from qmamba.restore.adaptive_tiles import Canceled, Progress
from qmamba.restore.catalog import RestorationRequest, find_weights
from qmamba.restore.folder import (
    FORMATS,
    Job,
    RestoredRow,
    Source,
    plan_beside,
    plan_jobs,
    restore_paths,
    result_ending,
    target_name,
)
from qmamba.restore.restored import RestoredImage
from qmamba.restore.restorer import ImageInput, Restorer

__all__ = [
    "FORMATS",
    "Canceled",
    "ImageInput",
    "Job",
    "Progress",
    "RestorationRequest",
    "RestoredImage",
    "RestoredRow",
    "Restorer",
    "Source",
    "find_weights",
    "plan_beside",
    "plan_jobs",
    "restore_paths",
    "result_ending",
    "target_name",
]
