from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from qmamba.cli.waiting import wait_briefly

# Tests share their machine with whatever runs there; some would take twenty times as long.
wait_briefly()

REPOSITORY = Path(__file__).resolve().parent.parent


def python_blocks(page: Path) -> list[str]:
    """The Python of a Markdown page, one text for each block."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded reference tensors and research images, absent on most machines."""
    folder = Path(os.environ.get("QMAMBA_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the recordings in {folder}")
    return folder
