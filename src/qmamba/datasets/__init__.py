"""Images with the scores that people gave them: the published data sets, any CSV, and splits."""

from qmamba.datasets.check import CheckReport, check_csv, check_dataset
from qmamba.datasets.csv_list import read_csv_dataset
from qmamba.datasets.records import RatedDataset, RatedImage
from qmamba.datasets.registry import find_datasets, list_datasets, read_dataset
from qmamba.datasets.splits import (
    Split,
    official_split,
    read_splits,
    split_by_content,
    split_by_image,
    write_splits,
)

__all__ = [
    "CheckReport",
    "RatedDataset",
    "RatedImage",
    "Split",
    "check_csv",
    "check_dataset",
    "find_datasets",
    "list_datasets",
    "official_split",
    "read_csv_dataset",
    "read_dataset",
    "read_splits",
    "split_by_content",
    "split_by_image",
    "write_splits",
]
