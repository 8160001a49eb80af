"""Takes the screenshots of docs/looking.md and the README with the images of examples/.

    pip install '.[browser-test]'; apt-get install chromium
    python recipes/screenshots.py

The page is served with the embedded weights; its figures are therefore those of the command.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from trial import parse

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs" / "figures"
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
WIDTH, HEIGHT = 1000, 720
MOST_BYTES = 200_000


@contextmanager
def served() -> Iterator[str]:
    """The address of a page that shows examples/."""
    command = [sys.executable, "-m", "qmamba", "serve", "examples", "--no-browser", "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            found = re.search(r"http://\S+", line)
            if found:
                yield found[0]
                break
    finally:
        process.terminate()
        process.communicate()


def keep(page: Any, path: Path) -> None:
    """Store what is in sight, with few enough colors to be small."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    palette = image.quantize(256, Image.Quantize.MEDIANCUT)
    dithered = image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    dithered.save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        palette.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder of the screenshots")
    out = parse(parser, "--out {out}").out
    out.mkdir(parents=True, exist_ok=True)
    # What a look at the options does not need may be missing.
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("There is no chromium; apt-get install chromium.")
    with served() as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(180_000)
        page.goto(address)
        page.wait_for_selector(".cell:nth-child(4) img")
        page.wait_for_selector("#progress", state="hidden")
        page.focus("#gallery")
        for key in ("k", "End", "x", "Home"):
            page.keyboard.press(key)
        page.wait_for_selector(".cell.reject")
        page.evaluate("() => document.activeElement.blur()")
        page.wait_for_timeout(500)
        keep(page, out / "page_gallery.png")
        page.locator(".cell", has_text="coffee_blurred").click()
        page.fill("#opacity", "0.5")
        page.check("#regions")
        page.wait_for_timeout(500)
        keep(page, out / "page_map.png")
        page.click("#close")
        page.locator(".cell", has_text="coffee_small").click()
        page.fill("#opacity", "0")
        page.uncheck("#regions")
        page.select_option("#choice", label="super-resolution x2")
        page.click("#restore")
        page.wait_for_selector("#versions li[data-version] span")
        page.wait_for_timeout(500)
        keep(page, out / "page_restored.png")
        browser.close()


if __name__ == "__main__":
    main()
