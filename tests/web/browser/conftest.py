"""A running browser, and what serves the page to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.restore.stand_ins import save_networks
from tests.web.browser.driving import (
    FLAGS,
    REQUIRED,
    NewTab,
    Serve,
    Server,
    find_chromium,
    tabs,
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if os.environ.get(REQUIRED):
        import playwright.sync_api as playwright
    else:
        reason = "needs playwright: pip install 'qmamba[browser-test]'"
        playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    path = find_chromium()
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture
def serve(weights: Path, networks: dict[str, Path], tmp_path: Path) -> Iterator[Serve]:
    running: list[Server] = []

    def start(*arguments: str) -> Server:
        more = ["--model", str(weights), "--restore-model", str(networks["sr"])]
        running.append(Server(tmp_path, *arguments, *more))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def new_tab(browser: Any, serve: Serve) -> Iterator[NewTab]:
    # It asks for the server so that tabs are closed before it is.
    yield from tabs(browser)
