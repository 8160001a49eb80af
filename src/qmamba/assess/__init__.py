"""Quality scores of images."""

from qmamba.assess.folder import COLUMNS, ImageRow, score_paths
from qmamba.assess.map_files import MapFolder, MapFormat, map_paths
from qmamba.assess.maps import QualityMap, Region
from qmamba.assess.native import REASON_COLUMNS, Reasons, find_reasons
from qmamba.assess.overlay import colorize, overlay
from qmamba.assess.policies import (
    CropsPolicy,
    NativePolicy,
    Policy,
    ResizePolicy,
    parse_policy,
    policy_from_metadata,
    policy_to_metadata,
)
from qmamba.assess.score import Score
from qmamba.assess.scorer import DEFAULT_WEIGHTS, Scorer
from qmamba.assess.table import TABLE_SUFFIXES, TableFile
from qmamba.assess.views import ImageInput, ImageViews

__all__ = [
    "COLUMNS",
    "DEFAULT_WEIGHTS",
    "REASON_COLUMNS",
    "TABLE_SUFFIXES",
    "CropsPolicy",
    "ImageInput",
    "ImageRow",
    "ImageViews",
    "MapFolder",
    "MapFormat",
    "NativePolicy",
    "Policy",
    "QualityMap",
    "Reasons",
    "Region",
    "ResizePolicy",
    "Score",
    "Scorer",
    "TableFile",
    "colorize",
    "find_reasons",
    "map_paths",
    "overlay",
    "parse_policy",
    "policy_from_metadata",
    "policy_to_metadata",
    "score_paths",
]
