"""Typed errors: every message is one sentence that says what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable


class QMambaError(Exception):
    """Base of every error raised on purpose; the command line prints it without a traceback."""


class ConfigError(QMambaError, ValueError):
    """A model, policy or option value is unknown or contradictory."""


class ShapeError(QMambaError, ValueError):
    """A tensor has the wrong shape, dtype or device."""


class BackendError(QMambaError, RuntimeError):
    """A scan implementation was asked for by name and is unknown or cannot run here."""


class CheckpointError(QMambaError, RuntimeError):
    """A weights file is missing, not readable, or does not fit the model it should fill."""


class ImageError(QMambaError, ValueError):
    """An image cannot be decoded, is too large, or is not in an accepted form."""


class DataError(QMambaError, ValueError):
    """A data set, score list or table is missing, malformed or too small."""


class TrainingError(QMambaError, RuntimeError):
    """A training cannot go on."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence: the name, the closest known ones if any is close, and all that are allowed."""
    allowed = list(known)
    close = difflib.get_close_matches(name, allowed, n=3)
    hint = f"did you mean {' or '.join(close)}? Allowed" if close else "allowed"
    return f"Unknown {kind} {reprlib.repr(name)}; {hint}: {', '.join(allowed) or 'none'}."
