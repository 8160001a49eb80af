"""Reports in a real browser, opened as files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.assess.samples import write_image
from tests.web.browser.driving import (
    NAMELESS,
    NewTab,
    names,
    score,
    status,
    until,
)


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
