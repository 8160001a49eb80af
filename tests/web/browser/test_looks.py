"""How the page fits its reader, in a real browser: keyboard, width, darkness, many images."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.assess.samples import write_image
from tests.web.browser.driving import (
    NAMELESS,
    NewTab,
    Serve,
    settle,
    until,
    visit,
    wait_scored,
)


def test_everything_has_a_name_and_works_by_keyboard(
    new_tab: NewTab, serve: Serve, photos: Path
) -> None:
    tab = new_tab()
    page = tab.page
    visit(tab, serve("photos"))
    wait_scored(tab, 4)
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate("() => [...document.images].every((one) => one.hasAttribute('alt'))")
    assert page.get_attribute("html", "lang") == "en"
    page.focus("#gallery")
    for key in ("ArrowRight", "k", "ArrowRight", "x"):
        page.keyboard.press(key)
    page.wait_for_selector(".cell.reject")
    marked = page.evaluate(
        "() => [...document.querySelectorAll('.cell')].map((one) => one.className)"
    )
    assert sum("keep" in one for one in marked) == sum("reject" in one for one in marked) == 1
    active = page.get_attribute("#gallery", "aria-activedescendant")
    assert page.locator(f"[id='{active}'][aria-selected=true]").count() == 1
    page.keyboard.press("u")
    until(tab, "!document.querySelector('.cell.reject')")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    assert page.evaluate(NAMELESS) == []
    name = page.inner_text("#detail-name")
    page.focus("#after")
    page.keyboard.press("Enter")
    assert page.inner_text("#detail-name") != name
    assert page.evaluate("() => document.activeElement.id") == "after"
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog:not([open])", state="attached")
    bar = page.locator("#histogram [role=button][tabindex='0']").first
    bar.focus()
    page.keyboard.press("Enter")
    until(tab, "!document.getElementById('status').textContent.startsWith('4 of 4')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_and_the_dark(
    new_tab: NewTab, serve: Serve, photos: Path, scheme: str
) -> None:
    tab = new_tab(viewport={"width": 400, "height": 800}, color_scheme=scheme)
    page = tab.page
    visit(tab, serve("photos"))
    wait_scored(tab, 4)
    too_wide = "() => document.documentElement.scrollWidth > window.innerWidth"
    assert not page.evaluate(too_wide)
    page.locator(".cell").first.click()
    page.fill("#opacity", "0.5")
    dialog = "document.querySelector('dialog')"
    assert page.evaluate(f"() => {dialog}.scrollWidth <= {dialog}.clientWidth")
    # Contrast of text and ground, by the formula of WCAG 2.
    ratio = page.evaluate(
        """() => {
          const light = (text) => {
            const parts = text.match(/[\\d.]+/g).slice(0, 3).map((one) => one / 255)
              .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
          };
          const style = getComputedStyle(document.body);
          const dim = getComputedStyle(document.querySelector(".hint")).color;
          const [ground, text] = [light(style.backgroundColor), light(dim)];
          return [(Math.max(ground, text) + 0.05) / (Math.min(ground, text) + 0.05), ground];
        }"""
    )
    assert ratio[0] > 4.5
    assert (ratio[1] < 0.2) is (scheme == "dark")


def test_two_thousand_images_scroll(
    browser: Any, new_tab: NewTab, serve: Serve, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    # Large enough for thumbnails of full size, which the tab has to hold.
    originals = [write_image(tmp_path / f"{seed}.png", 180, 220, seed) for seed in range(1, 8)]
    for number in range(2000):
        os.link(originals[number % 7], folder / f"{number:04}.png")
    tab = new_tab()
    page = tab.page
    visit(tab, serve("many"))
    wait_scored(tab, 2000, 900)
    page.select_option("#sort", "name")
    settle(tab)
    seen: dict[int, str] = {}
    height = page.evaluate("() => document.documentElement.scrollHeight")
    for top in range(0, height, 700):
        page.evaluate("(top) => window.scrollTo(0, top)", top)
        settle(tab)
        cells = page.evaluate(
            "() => [...document.querySelectorAll('.cell')]"
            ".map((cell) => [Number(cell.getAttribute('aria-posinset')), cell.title])"
        )
        assert len(cells) < 100
        for place, title in cells:
            assert seen.setdefault(place, title) == title
    assert [seen[place] for place in sorted(seen)] == [
        f"many/{number:04}.png" for number in range(2000)
    ]
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    # Pages of the browser's own program, which its processes share, count by their part of it.
    rollups = [
        Path(f"/proc/{process['id']}/smaps_rollup").read_text()
        for process in processes
        if process["type"] == "renderer"
    ]
    held = [1024 * int(re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)[0]) for text in rollups]
    assert max(held) < 500e6
