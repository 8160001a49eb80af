"""The weights inside the package, on the photographs inside the repository."""

from __future__ import annotations

from importlib import resources

import pytest

from qmamba.assess import DEFAULT_WEIGHTS, Scorer
from qmamba.checkpoints import list_weights
from tests.conftest import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.from_pretrained()


def test_they_say_what_they_are(scorer: Scorer) -> None:
    assert DEFAULT_WEIGHTS in list_weights()
    assert (scorer.scale.low, scorer.scale.high, scorer.scale.higher_is_better) == (0, 1, True)
    training = scorer.metadata.training
    assert all(training[key] for key in ("data", "terms", "protocol"))


def test_they_are_small() -> None:
    file = resources.files("qmamba") / "weights" / f"{DEFAULT_WEIGHTS}.safetensors"
    assert len(file.read_bytes()) < 10e6


def test_a_blurred_photograph_scores_lower(scorer: Scorer) -> None:
    sharp, blurred = scorer([EXAMPLES / "coffee.jpg", EXAMPLES / "coffee_blurred.jpg"])
    assert sharp.score - blurred.score > 0.2
    assert 0 < blurred.score < sharp.score < 1


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_other_precisions_stay_close(scorer: Scorer, precision: str) -> None:
    other = Scorer.from_pretrained(precision=precision)  # type: ignore[arg-type]
    for path in sorted(EXAMPLES.glob("*.jpg")):
        assert float(other(path)) == pytest.approx(float(scorer(path)), abs=0.03)
