"""What a session outlives, in a real browser: reloads, a second tab, the end of its server."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from PIL import Image

from tests.assess.samples import encoded, pixels
from tests.web.browser.driving import (
    PATIENCE,
    NewTab,
    Serve,
    drop,
    names,
    visit,
    wait_scored,
)


def test_a_reload_keeps_the_session(new_tab: NewTab, serve: Serve, photos: Path) -> None:
    tab = new_tab()
    visit(tab, serve("photos"))
    wait_scored(tab, 4)
    tab.page.focus("#gallery")
    tab.page.keyboard.press("x")
    tab.page.wait_for_selector(".cell.reject")
    drop(tab, {"new.png": encoded(seed=5)})
    wait_scored(tab, 5)
    before = names(tab)
    # The key is not in the address any more, and the cookie stands in for it.
    assert "token" not in tab.page.url
    tab.page.reload()
    wait_scored(tab, 5)
    assert names(tab) == before
    assert tab.page.locator(".cell.reject").count() == 1


def test_two_tabs_show_the_same(new_tab: NewTab, serve: Serve, photos: Path) -> None:
    server = serve("photos")
    first, second = new_tab(), new_tab()
    for tab in (first, second):
        visit(tab, server)
        wait_scored(tab, 4)
    drop(first, {"new.png": encoded(seed=5)})
    wait_scored(second, 5)
    second.page.focus("#gallery")
    second.page.keyboard.press("k")
    first.page.wait_for_selector(".cell.keep")
    assert names(first) == names(second)


def test_the_page_says_that_the_server_has_gone(
    new_tab: NewTab, serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    Image.fromarray(pixels(900, 1200, seed=3)).save(tmp_path / "one" / "a.png")
    server = serve("one")
    tab = new_tab()
    visit(tab, server)
    wait_scored(tab, 1)
    tab.page.locator(".cell").click()
    tab.page.select_option("#choice", label="super-resolution x4")
    tab.page.click("#restore")
    tab.page.wait_for_selector("#versions progress")
    tab.loses_server = True
    server.process.kill()
    tab.page.wait_for_selector("#alert:not([hidden])", state="attached")
    assert "what it was doing is lost" in (tab.page.text_content("#alert") or "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_end_of_the_server_removes_what_was_dropped(
    new_tab: NewTab, serve: Serve, tmp_path: Path, number: signal.Signals
) -> None:
    server = serve()
    tab = new_tab()
    visit(tab, server)
    drop(tab, {"a.png": encoded()})
    wait_scored(tab, 1)
    assert list(tmp_path.glob("qmamba-serve-*/*"))
    tab.loses_server = True
    server.process.send_signal(number)
    # To be ended is how a page ends, not a failure.
    assert server.process.wait(PATIENCE) == 0
    assert not list(tmp_path.glob("qmamba-serve-*"))
