"""What `--quick` looks at where images are needed: crops of examples/ with made-up ratings."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
SIDE = 224
COUNT = 24


@contextmanager
def rated_examples() -> Iterator[Path]:
    """A folder with `scores.csv` and `images/`, as that of a data set, which goes away."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        with open(folder / "scores.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("image", "mos", "content_id", "split", "distortion"))
            for index in range(COUNT):
                with Image.open(EXAMPLES / ("cat.jpg", "coffee.jpg")[index % 2]) as image:
                    left, top = (
                        (size - SIDE) * index // COUNT for size in (image.width, image.height)
                    )
                    crop = image.convert("RGB").crop((left, top, left + SIDE, top + SIDE))
                path = folder / "images" / f"{index:02}.jpg"
                crop.save(path, quality=10 + 3 * index)
                split = "train" if index % 8 < 4 else "val"
                rows.writerow((path.name, 0.1 + 0.03 * index, index // 2, split, "jpeg"))
        yield folder


@contextmanager
def cropped_examples() -> Iterator[Path]:
    """A folder with a small crop of each of two examples, which goes away."""
    with tempfile.TemporaryDirectory() as name:
        for example in ("cat.jpg", "coffee.jpg"):
            with Image.open(EXAMPLES / example) as image:
                crop = image.convert("RGB").crop((0, 0, SIDE // 2, SIDE // 2))
            crop.save(Path(name) / f"{Path(example).stem}.png")
        yield Path(name)
