"""What only the native size of an image shows, before anything is scaled down."""

from qmamba.assess.native.reasons import REASON_COLUMNS, Reasons, find_reasons
from qmamba.assess.native.technical import largest_fall, technical_severity

__all__ = [
    "REASON_COLUMNS",
    "Reasons",
    "find_reasons",
    "largest_fall",
    "technical_severity",
]
