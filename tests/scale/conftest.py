from __future__ import annotations

from pathlib import Path

import pytest

from tests.assess.samples import save_tiny
from tests.scale.sets import write_set

pytest.importorskip("pyarrow", reason="needs pyarrow (pip install 'qmamba[parquet]')")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tar files and single images, some of them hostile; nobody changes it."""
    return write_set(tmp_path_factory.mktemp("data") / "set")
