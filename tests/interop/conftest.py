from __future__ import annotations

from pathlib import Path

import pytest

from qmamba.assess import Scorer
from tests.assess.samples import save_tiny


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def scorer(weights: Path) -> Scorer:
    return Scorer.from_pretrained(weights)
