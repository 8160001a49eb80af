"""The examples in the docstrings: every public name has one, and all of them run."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import qmamba
from qmamba.errors import QMambaError
from tests.conftest import REPOSITORY

PACKAGE = Path(qmamba.__file__).parent
PUBLIC = [name for name in qmamba.__all__ if not name.startswith("__")]


def modules_with_examples() -> list[str]:
    return [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(PACKAGE.rglob("*.py"))
        if ">>> " in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(getattr(qmamba, name)) or "")


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    try:
        module = importlib.import_module(name)
    except QMambaError as error:
        pytest.skip(f"an optional package is missing: {error}")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    if not result.attempted:
        pytest.skip("what has the examples is made on demand")
    assert not result.failed
