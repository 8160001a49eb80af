"""The folders are floors: an import may only point to the own folder or down."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import qmamba

PACKAGE = Path(qmamba.__file__).parent

FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"errors"}),
    frozenset({"cells", "extras", "files"}),
    frozenset({"locks"}),
    frozenset({"ops", "images"}),
    frozenset({"nn"}),
    frozenset({"models"}),
    frozenset({"quantization", "prompts"}),
    frozenset({"checkpoints"}),
    frozenset({"inference"}),
    frozenset({"assess", "restore"}),
    frozenset({"datasets"}),
    frozenset({"evaluation"}),
    frozenset({"training"}),
    frozenset({"reproduce"}),
    frozenset({"interop", "scale", "web"}),
    frozenset({"cli"}),
)
MOST_MODULES, MOST_LINES, MOST_BODY_LINES = 13, 420, 80
DOORS = {"__init__", "__main__"}
# `load` is one function for every kind of weights, and hands files of packed codes on.


def level(folder: str) -> int:
    return next(height for height, floor in enumerate(FLOORS) if folder in floor)


def sources() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "weights" not in path.parts]


def folder_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The folders of this package that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "qmamba" and len(parts) > 1 and not parts[1].startswith("__"):
                found.add(parts[1])
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    folder = folder_of(path)
    if folder in DOORS:
        return
    own = level(folder)
    above = {name for name in imported(path) if name != folder and level(name) >= own}
    assert not above, f"{path.name} of {folder} imports from {', '.join(sorted(above))}"


def rooms() -> list[Path]:
    return sorted({path.parent for path in sources()})


@pytest.mark.parametrize("room", rooms(), ids=lambda room: str(room.relative_to(PACKAGE)))
def test_rooms_are_small(room: Path) -> None:
    modules = [path for path in room.glob("*.py") if path.stem not in DOORS]
    assert len(modules) <= MOST_MODULES, f"make a folder of what belongs together in {room.name}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_can_be_read_in_a_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_are_short(path: Path) -> None:
    """Without their parameters and docstrings, which for a command are its options."""
    if path.parent.name == "triton":
        pytest.skip("a GPU kernel cannot call plain functions")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
            length = (node.end_lineno or 0) - first.lineno + 1
            assert length <= MOST_BODY_LINES, f"{node.name} has {length} lines"
