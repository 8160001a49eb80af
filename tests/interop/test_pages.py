"""The Python of the pages about hosts runs as it is printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qmamba.assess import scorer as scorer_module
from qmamba.interop import scoring as scoring_module
from tests.conftest import REPOSITORY, python_blocks
from tests.interop.hosts import host
from tests.models.micro_mambair import VARIANTS, build, images

PAGES = REPOSITORY / "docs" / "interop"


def run_block(page: str, index: int, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run one block of a page, after names that its reader is expected to have."""
    code = python_blocks(PAGES / page)[index]
    names = dict(given or {})
    exec(compile(code, page, "exec"), names)
    return names


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The small embedded network where the page takes the default."""
    for module in (scorer_module, scoring_module):
        monkeypatch.setattr(module, "DEFAULT_WEIGHTS", "qmamba-nano-biq2021")
    scoring_module._default.cache_clear()
    yield
    scoring_module._default.cache_clear()


def test_torchmetrics(quick: None) -> None:
    host("torchmetrics")
    names = run_block("torchmetrics.md", 0)
    assert 0 < names["score"].compute() < 1
    assert set(names["gain"].compute()) == {"quality_improvement", "share_improved"}


def test_spandrel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spandrel = host("spandrel")
    main = spandrel.MAIN_REGISTRY
    kept = main.copy()
    monkeypatch.chdir(tmp_path)
    torch.save({"params": build(VARIANTS["light-x2"]).state_dict()}, "mambair_x2.pth")
    try:
        names = run_block("spandrel.md", 0, {"images": images(1, 3, 9, 13)})
    finally:
        main.__dict__.update(kept.__dict__)
    assert names["restored"].shape == (1, 3, 18, 26)


def test_cleanvision(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    host("cleanvision")
    monkeypatch.chdir(REPOSITORY)
    names = run_block("data_tools.md", 0)
    assert names["lab"].issues["is_low_quality_issue"].any()


def test_datasets(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    host("datasets")
    monkeypatch.chdir(REPOSITORY)
    names = run_block("data_tools.md", 1)
    assert len(names["data"]) == 2 and len(names["kept"]) >= 1
