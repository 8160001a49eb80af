"""A real browser and a real server for the tests of the page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REQUIRED = "QMAMBA_BROWSER_TESTS"
"""Set where the tests must run, so that a missing browser fails them instead of skipping them."""

FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
    "--force-device-scale-factor=1",
]


def find_chromium() -> str:
    """The path of chromium; the test is skipped or fails where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        reason = "needs a browser: apt-get install chromium"
        if os.environ.get(REQUIRED):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


class Server:
    """`qmamba serve` in a process of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "qmamba", "serve", "--no-browser", "--port", "0"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
        self.folder = folder
        self.process = subprocess.Popen(
            [*command, *arguments], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        self.said = ""
        for line in self.process.stderr:
            self.said += line
            found = re.search(r"Open (http://127\.0\.0\.1:(\d+)/\?token=(\S+))", line)
            if found:
                self.address, self.port, self.token = found[1], int(found[2]), found[3]
                return
        raise AssertionError(f"the server did not start: {self.said}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class Tab:
    """A page of the browser that notes what it should not do."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.outside: list[str] = []
        self.errors: list[str] = []
        self.loses_server = False
        """Whether failed connections are what the test is about."""
        page.set_default_timeout(90_000)
        page.context.route("**/*", self._route)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._console)

    def _route(self, route: Any) -> None:
        if re.match(r"(http://127\.0\.0\.1[:/]|data:|blob:|file:)", route.request.url):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def _console(self, message: Any) -> None:
        if self.loses_server and "net::ERR_" in message.text:
            return
        if message.type in ("error", "warning"):
            self.errors.append(message.text)


def tabs(browser: Any) -> Iterator[Callable[..., Tab]]:
    """Makes tabs, each with a session of its own, and checks at the end what they did."""
    made: list[Tab] = []

    def make(**options: Any) -> Tab:
        options.setdefault("viewport", {"width": 1200, "height": 1600})
        made.append(Tab(browser.new_context(**options).new_page()))
        return made[-1]

    yield make
    for tab in made:
        tab.page.context.close()
        assert tab.outside == [], tab.outside
        assert tab.errors == [], tab.errors
