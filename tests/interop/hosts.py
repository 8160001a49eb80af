"""Host libraries that a test needs, or a skip that says loudly which one is missing."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import pytest

from qmamba.extras import declare_torchvision_operators


def host(name: str, extra: str | None = None) -> Any:
    """The module of a host library; the tests that need it are skipped where it is missing.

    With ``QMAMBA_REQUIRE_HOSTS=1`` in the environment they fail instead.
    """
    try:
        declare_torchvision_operators()
        return import_module(name)
    except ImportError as error:
        if os.environ.get("QMAMBA_REQUIRE_HOSTS") == "1":
            raise
        pytest.skip(
            f"NOT TESTED AGAINST THE REAL {name.upper()}: it is not installed ({error}); run "
            f'pip install "qmamba[{extra or name}]".',
            allow_module_level=True,
        )
