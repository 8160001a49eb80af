"""What the Python of the pages imports from this package is there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from qmamba.extras import MissingExtraError
from tests.conftest import REPOSITORY, python_blocks

PAGES = sorted(
    path
    for folder in (".", "docs", "docs/interop", "recipes", "integrations")
    for path in (REPOSITORY / folder).glob("**/*.md" if folder == "integrations" else "*.md")
)


def imports(page: Path) -> list[str]:
    """The statements that import from this package, in the order of the page."""
    found = []
    for node in (node for block in python_blocks(page) for node in ast.walk(ast.parse(block))):
        if isinstance(node, ast.ImportFrom):
            ours = (node.module or "").partition(".")[0] == "qmamba"
        else:
            ours = isinstance(node, ast.Import) and any(
                alias.name.partition(".")[0] == "qmamba" for alias in node.names
            )
        if ours:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_imports(page: Path) -> None:
    for statement in imports(page):
        try:
            exec(statement, {})
        except MissingExtraError:
            continue


def test_pages_with_imports_are_found() -> None:
    assert sum(bool(imports(page)) for page in PAGES) > 10
