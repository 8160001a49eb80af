from __future__ import annotations

from pathlib import Path

import pytest

from tests.assess.samples import save_tiny, write_image


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images with names that must be treated as text, and one broken file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate(["a.png", "b <!--<script><b>.png", "c&'\"#%.png"], start=1):
        write_image(folder / name, seed=seed)
    (folder / "broken.png").write_bytes(b"no image")
    return folder
