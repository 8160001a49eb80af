"""Texts as cells of a CSV table, which a spreadsheet must not take for formulas."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def path_cell(path: str) -> str:
    """A path or the name of a file: one that begins like a formula as ``./path``, the same file.

    Example:
        >>> path_cell("=1.png"), path_cell("photos/=1.png")
        ('./=1.png', 'photos/=1.png')
    """
    return f"./{path}" if path.startswith(_FORMULA) else path


def text_cell(text: str) -> str:
    """Any other text: one that begins like a formula behind an apostrophe, as spreadsheets do.

    Example:
        >>> text_cell("@home"), text_cell("at home")
        ("'@home", 'at home')
    """
    return f"'{text}" if text.startswith(_FORMULA) else text
