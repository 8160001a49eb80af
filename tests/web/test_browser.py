"""The page and the report in a real browser, driven by playwright."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qmamba.assess import Scorer, colorize
from tests.assess.samples import encoded, pixels, write_image
from tests.restore.stand_ins import save_networks
from tests.web.browser import FLAGS, REQUIRED, Server, Tab, find_chromium, tabs

if os.environ.get(REQUIRED):
    import playwright.sync_api as playwright
else:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install 'qmamba[browser-test]'"
    )

PATIENCE = 90
"""Seconds that anything may take on a machine that others work on, too."""

NewTab = Callable[..., Tab]
Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
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


def test_dropped_images_are_ordered_as_by_the_command(
    new_tab: NewTab, serve: Serve, weights: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "dropped"
    folder.mkdir()
    files = {f"{number:02}.png": encoded(40, 48, seed=number) for number in range(25)}
    files |= {"a<b>.png": encoded(seed=77), "c'&\".png": encoded(seed=78)}
    files |= {"x1.png": b"", "x2.png": b"no image", "x3.png": files["00.png"][:200]}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    tab = new_tab()
    visit(tab, serve())
    drop(tab, files)
    # The empty file is refused at the door; the command finds fault with it, too.
    wait_scored(tab, 29)
    assert tab.page.locator("#refused li").all_inner_texts() == ["x1.png: the file is empty"]
    lines = score(folder, weights, *files, "--sort", "best").splitlines()[1:]
    good = [line[22:] for line in lines if not line.startswith("    error")]
    wanted = [re.sub(r"  \[.*\]$", "", line) for line in good]
    assert len(wanted) == 27
    assert names(tab)[:27] == wanted
    assert set(names(tab)[27:]) == {"x2.png", "x3.png"}
    figures = [line.split()[0] for line in lines[:27]]
    shown = tab.page.evaluate(
        "() => [...document.querySelectorAll('.cell')]"
        ".sort((a, b) => a.getAttribute('aria-posinset') - b.getAttribute('aria-posinset'))"
        ".map((cell) => cell.querySelector('.score').textContent)"
    )
    assert shown[:27] == figures and shown[27:] == ["error", "error"]
    assert tab.page.locator(".cell b").count() == 0


def test_files_are_chosen_and_large_ones_refused(new_tab: NewTab, serve: Serve) -> None:
    tab = new_tab()
    visit(tab, serve())
    tab.page.evaluate(
        """() => {
          const transfer = new DataTransfer();
          const large = new File(["x"], "large<i>.png");
          Object.defineProperty(large, "size", { value: 2 ** 40 });
          transfer.items.add(large);
          const event = new DragEvent("drop", { bubbles: true, cancelable: true });
          Object.defineProperty(event, "dataTransfer", { value: { files: [large], items: [] } });
          document.getElementById("drop").dispatchEvent(event);
        }"""
    )
    tab.page.wait_for_selector("#refused li")
    assert "large<i>.png: too large" in tab.page.inner_text("#refused")
    tab.page.set_input_files(
        "#files",
        [
            {"name": f"{number}.png", "mimeType": "image/png", "buffer": encoded(seed=number)}
            for number in range(2)
        ],
    )
    wait_scored(tab, 2)


def test_the_mean_of_the_map_is_the_score(
    new_tab: NewTab, serve: Serve, weights: Path, photos: Path
) -> None:
    tab = new_tab()
    visit(tab, serve("photos"))
    wait_scored(tab, 4)
    found = tab.page.evaluate(
        """async () => {
          const { mapMean } = await import("/static/colors.js");
          const { images } = await (await fetch("api/state")).json();
          return images.filter((one) => one.map).map((one) => [mapMean(one.map), one.raw]);
        }"""
    )
    assert len(found) == 3
    for mean, raw in found:
        assert mean == pytest.approx(raw, abs=1e-3)
    # What is drawn is the map: the canvas has its colors.
    tab.page.locator(".cell").first.click()
    tab.page.fill("#opacity", "1")
    drawn = tab.page.evaluate(
        """() => {
          const canvas = document.querySelector(".sheet canvas");
          const { width, height } = canvas;
          const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
          return [width, height, [...data]];
        }"""
    )
    scorer = Scorer.from_pretrained(weights)
    best = tab.page.locator("#detail-name").inner_text()
    expected = colorize(scorer.map(photos.parent / best, max_side=64)).astype(int)
    actual = np.array(drawn[2]).reshape(drawn[1], drawn[0], 4)
    seen = actual[..., 3] == 255
    assert np.abs(actual[..., :3] - expected)[seen].max() <= 1


def corner(tab: Tab, width: int, height: int) -> np.ndarray:
    content = tab.page.screenshot(clip={"x": 0, "y": 0, "width": width, "height": height})
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def restored_tab(new_tab: NewTab, serve: Serve, folder: Path) -> Tab:
    (folder / "one").mkdir()
    Image.fromarray(pixels(120, 160, seed=3)).save(folder / "one" / "a.png")
    # Low enough for an enlarged image to be scrolled in both directions.
    tab = new_tab(viewport={"width": 1200, "height": 700})
    visit(tab, serve("one"))
    wait_scored(tab, 1)
    tab.page.locator(".cell").click()
    tab.page.click("#restore")
    tab.page.wait_for_selector("#versions li[data-version] a")
    tab.page.wait_for_selector("#versions li[data-version] span")
    return tab


def test_the_slider_shows_one_version_and_the_other(
    new_tab: NewTab, serve: Serve, tmp_path: Path
) -> None:
    tab = restored_tab(new_tab, serve, tmp_path)
    tab.page.click("#zoom-1")
    pictures = {}
    hide = "document.querySelectorAll('.handle').forEach((one) => { one.style.opacity = 0; })"
    tab.page.evaluate(f"() => {hide}")
    # Whole pixels begin in the corner of the window.
    tab.page.evaluate(
        """() => {
          const pane = document.querySelector(".pane");
          Object.assign(pane.style, { position: "fixed", inset: 0, border: 0, maxHeight: "none" });
          pane.firstChild.style.margin = 0;
          document.querySelector("dialog").style.cssText = "border: 0; overflow: visible";
        }"""
    )
    for place in (0, 50, 100):
        tab.page.fill("input.split", str(place))
        pictures[place] = corner(tab, 320, 240)
    # The second version lies over the first from the handle on.
    saved = tab.page.evaluate(
        """async () => {
          const answer = await fetch(document.querySelector(".sheet .over").src);
          return [...new Uint8Array(await answer.arrayBuffer())];
        }"""
    )
    second = np.asarray(Image.open(io.BytesIO(bytes(saved))).convert("RGB")).astype(int)
    assert pictures[0].shape == second.shape == (240, 320, 3)
    assert np.abs(pictures[0] - second).max() <= 1
    assert np.abs(pictures[100] - second).mean() > 1
    np.testing.assert_array_equal(pictures[50][:, :158], pictures[100][:, :158])
    np.testing.assert_array_equal(pictures[50][:, 162:], pictures[0][:, 162:])
    assert "PSNR to the input" in tab.page.inner_text("#versions")


def test_versions_side_by_side_move_together(new_tab: NewTab, serve: Serve, tmp_path: Path) -> None:
    tab = restored_tab(new_tab, serve, tmp_path)
    tab.page.select_option("#choice", label="super-resolution x4")
    tab.page.click("#restore")
    until(tab, "document.querySelectorAll('#versions li[data-version] a').length === 2")
    tab.page.select_option("#version-a", index=1)
    tab.page.select_option("#version-b", index=2)
    tab.page.click("#mode-side")
    tab.page.click("#zoom-2")
    assert tab.page.locator(".pane").count() == 2
    tab.page.evaluate("() => document.querySelector('.pane').scrollTo(120, 60)")
    until(tab, "document.querySelectorAll('.pane')[1].scrollLeft === 120")
    assert tab.page.evaluate("() => document.querySelectorAll('.pane')[1].scrollTop") == 60
    sources = tab.page.evaluate(
        "() => [...document.querySelectorAll('.sheet img')].map((one) => one.src)"
    )
    assert len(set(sources)) == 2 and all("/versions/" in source for source in sources)


def test_the_table_is_that_of_the_command(
    new_tab: NewTab, serve: Serve, weights: Path, photos: Path, tmp_path: Path
) -> None:
    tab = new_tab()
    visit(tab, serve("photos"))
    wait_scored(tab, 4)
    for kind in ("csv", "jsonl"):
        score(tmp_path, weights, "photos", "-o", f"scores.{kind}")
        with tab.page.expect_download() as download:
            tab.page.click(f"#{kind}")
        assert (
            Path(download.value.path()).read_bytes() == (tmp_path / f"scores.{kind}").read_bytes()
        )
        assert download.value.suggested_filename == f"scores.{kind}"
    tab.page.locator(".cell").nth(1).click()
    tab.page.click("#keep")
    tab.page.click("#close")
    kept = names(tab)[1]
    tab.page.wait_for_selector(".cell.keep")
    with tab.page.expect_download() as download:
        tab.page.click("#kept")
    assert Path(download.value.path()).read_text() == f"{kept}\n"
    # All that a threshold leaves, without pressing a key for each.
    tab.page.select_option("#show", "all")
    tab.page.click("#keep-shown")
    until(tab, "document.querySelectorAll('.cell.keep').length === 3")
    with tab.page.expect_download() as download:
        tab.page.click("#kept")
    assert len(Path(download.value.path()).read_text().splitlines()) == 3


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


NAMELESS = """() => {
  const text = (one) => (one.textContent || "").trim();
  const named = (one) => one.getAttribute("aria-label") || text(one) || one.title
    || one.getAttribute("aria-labelledby") || (one.labels && [...one.labels].some(text));
  return [...document.querySelectorAll("button, a, input, select, progress, [role], dialog[open]")]
    .filter((one) => one.getClientRects().length && !["status", "alert"].includes(one.role))
    .filter((one) => !named(one)).map((one) => one.outerHTML.slice(0, 120));
}"""


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


def test_the_report_works_by_double_click(
    new_tab: NewTab, weights: Path, photos: Path, tmp_path: Path
) -> None:
    score(tmp_path, weights, "photos", "-o", "scores.csv")
    command = [sys.executable, "-m", "qmamba", "report", "scores.csv", "-o", "report.html"]
    subprocess.run([*command, "--model", str(weights)], cwd=tmp_path, check=True)
    tab = new_tab()
    page = tab.page
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector(".cell")
    lines = score(tmp_path, weights, "photos", "--sort", "best").splitlines()[1:]
    assert names(tab)[:3] == [line[22:].split("  [")[0] for line in lines[:3]]
    assert page.locator("#intake, #csv, meta[name=token]").count() == 0
    page.locator(".cell").first.click()
    page.fill("#opacity", "0.5")
    page.check("#regions")
    assert page.locator(".sheet canvas").count() == 1 and page.locator(".region").count() == 3
    # The file itself is shown, not its thumbnail.
    assert page.evaluate("() => document.querySelector('.sheet img').src").startswith("file:")
    until(tab, "document.querySelector('.sheet img').naturalWidth === 96")
    page.click("#keep")
    page.click("#close")
    page.select_option("#show", "keep")
    until(tab, "document.querySelectorAll('.cell').length === 1")
    assert page.evaluate(NAMELESS) == []


def test_a_report_of_five_thousand_images(new_tab: NewTab, weights: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    score(tmp_path, weights, "a.png", "-o", "one.jsonl")
    row = json.loads((tmp_path / "one.jsonl").read_text())
    with open(tmp_path / "many.jsonl", "w") as stream:
        for number in range(5000):
            value = number / 50
            stream.write(json.dumps({**row, "score": value, "raw": value}) + "\n")
    command = [sys.executable, "-m", "qmamba", "report", "many.jsonl", "-o", "report.html"]
    subprocess.run([*command, "--regions", "0"], cwd=tmp_path, check=True)
    tab = new_tab()
    tab.page.goto((tmp_path / "report.html").as_uri())
    tab.page.wait_for_selector(".cell")
    assert "5000 of 5000 images shown" in tab.page.inner_text("#status")
    assert tab.page.locator(".cell").count() < 100
    tab.page.fill("#low", "99.5")
    status(tab, "25 of 5000")
