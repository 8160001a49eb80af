"""A short stretch of `python -m tests.fuzz operators`."""

from __future__ import annotations

import random

import pytest

from qmamba.errors import ShapeError
from qmamba.ops.native import library
from tests.fuzz.operators import KINDS, broken, run

pytestmark = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)


def test_a_few_calls(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(seconds=60, seed=10_000, calls=150) == 0
    assert "150 calls from seed 10000" in capfd.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_right_calls_are_taken_and_some_wrong_ones_refused(kind: object) -> None:
    refused = 0
    for seed in range(40):
        rng = random.Random(seed)
        call, arguments, _ = kind(rng)  # type: ignore[operator]
        call(**arguments)
        try:
            call(**broken(rng, arguments)[0])
        except (ShapeError, RuntimeError, NotImplementedError):
            refused += 1
    assert refused >= 10
