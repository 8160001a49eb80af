"""Did it help? Two versions of an image, or of many, scored at one size and compared."""

from qmamba.evaluation.comparison.folders import (
    ComparedRow,
    Pairing,
    Summary,
    compare_pairs,
    pair_folders,
    summarize,
    write_table,
)
from qmamba.evaluation.comparison.gain import RULE, Gain, Verdict, gain
from qmamba.evaluation.comparison.images import Comparison, at_one_size, compare_images, returned
from qmamba.evaluation.comparison.likeness import likeness

__all__ = [
    "RULE",
    "ComparedRow",
    "Comparison",
    "Gain",
    "Pairing",
    "Summary",
    "Verdict",
    "at_one_size",
    "compare_images",
    "compare_pairs",
    "gain",
    "likeness",
    "pair_folders",
    "returned",
    "summarize",
    "write_table",
]
