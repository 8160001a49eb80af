"""A real browser and a real server for the tests of the page."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REQUIRED = "QMAMBA_BROWSER_TESTS"
"""Set where the tests must run, so that a missing browser fails them instead of skipping them."""

PATIENCE = 90
"""Seconds that anything may take on a machine that others work on, too."""

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


NAMELESS = """() => {
  const text = (one) => (one.textContent || "").trim();
  const named = (one) => one.getAttribute("aria-label") || text(one) || one.title
    || one.getAttribute("aria-labelledby") || (one.labels && [...one.labels].some(text));
  return [...document.querySelectorAll("button, a, input, select, progress, [role], dialog[open]")]
    .filter((one) => one.getClientRects().length && !["status", "alert"].includes(one.role))
    .filter((one) => !named(one)).map((one) => one.outerHTML.slice(0, 120));
}"""

NewTab = Callable[..., Tab]
Serve = Callable[..., Server]


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


def score(folder: Path, weights: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "qmamba", "score", *arguments, "--model", str(weights)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    ).stdout


def until(tab: Tab, condition: str, seconds: float = PATIENCE) -> None:
    """Wait for an expression; playwright's own way would need a page that allows `eval`."""
    end = time.monotonic() + seconds
    while not tab.page.evaluate(f"() => Boolean({condition})"):
        assert time.monotonic() < end, f"not in time: {condition}; {tab.errors}"
        tab.page.wait_for_timeout(20)


def settle(tab: Tab) -> None:
    """Wait for what is drawn after a change or a scroll, by the page's own clock.

    What the page has put off until its next frame or for 16 milliseconds is done then.
    """
    frame = (
        "(done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 40)))"
    )
    tab.page.evaluate(f"() => new Promise({frame})")


def visit(tab: Tab, server: Server) -> None:
    tab.page.goto(server.address)
    status(tab, "")


def status(tab: Tab, start: str) -> None:
    text = "document.getElementById('status').textContent"
    until(tab, f"{text} && {text}.startsWith({start!r})", 2 * PATIENCE)


def wait_scored(tab: Tab, count: int, seconds: float = 2 * PATIENCE) -> None:
    status(tab, f"{count} of {count} images")
    until(tab, "document.getElementById('progress').hidden", seconds)
    settle(tab)


def names(tab: Tab) -> list[str]:
    """Names in the gallery, in the order of reading, which is the one that is seen."""
    places = (
        "[...document.querySelectorAll('.cell')].map((one) => one.getAttribute('aria-posinset'))"
    )
    assert tab.page.evaluate(f"() => {places}.every((one, i, all) => !i || one - all[i - 1] === 1)")
    found: list[str] = tab.page.evaluate(
        "() => [...document.querySelectorAll('.cell')].map((cell) => cell.title)"
    )
    return found


def drop(tab: Tab, files: dict[str, bytes]) -> None:
    """What a browser does when files are dropped onto the page."""
    content = {name: base64.b64encode(data).decode() for name, data in files.items()}
    tab.page.evaluate(
        """(files) => {
          const transfer = new DataTransfer();
          for (const [name, text] of Object.entries(files)) {
            const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
            transfer.items.add(new File([bytes], name));
          }
          const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
          document.getElementById("drop").dispatchEvent(new DragEvent("drop", options));
        }""",
        content,
    )
