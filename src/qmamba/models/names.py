"""Error sentences for names that do not exist."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence: the name, the closest known ones if any is close, and all that are allowed."""
    allowed = list(known)
    close = difflib.get_close_matches(name, allowed, n=3)
    hint = f"did you mean {' or '.join(close)}? Allowed" if close else "allowed"
    return f"Unknown {kind} {reprlib.repr(name)}; {hint}: {', '.join(allowed) or 'none'}."
