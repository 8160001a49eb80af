"""The run-folder fuzz works, and a few folders of it find nothing."""

from __future__ import annotations

from tests.fuzz import runs


def test_a_few_folders() -> None:
    assert runs.run(seconds=60, seed=0, folders=8) == 0
