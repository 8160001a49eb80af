"""A short stretch of `python -m tests.fuzz files`, and the mutations that once were faults."""

from __future__ import annotations

import pytest

from tests.fuzz.files import faults, mutated, run, seeds


def test_a_few_files(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(seconds=60, seed=5_000, files=60) == 0
    captured = capfd.readouterr()
    assert "60 faults" not in captured.out and "; 0 faults" in captured.out
    # Libraries below print nothing of their own.
    assert captured.err == ""


@pytest.mark.parametrize("seed", [299])
def test_once_a_fault(seed: int) -> None:
    assert not list(faults(mutated(seed, seeds())[1]))
