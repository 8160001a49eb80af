"""Images in the page, in a real browser: dropped, chosen, mapped, restored, listed."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmamba.assess import Scorer, colorize
from tests.assess.samples import encoded, pixels
from tests.web.browser.driving import (
    NewTab,
    Serve,
    Tab,
    drop,
    names,
    score,
    until,
    visit,
    wait_scored,
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
