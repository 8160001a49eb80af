"""The score of a photograph with numpy and ONNX Runtime alone: no torch, no qmamba.

python examples/score_with_onnx.py qmamba.onnx examples/coffee.jpg

Above 512 pixels it is what `qmamba score --json` calls `whole`: the image scaled down, without a
look at its native size.
"""

import json
import os
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

SIDE, COUNT, SHORTER = 224, 10, 512


def score(file: str, photograph: str) -> float:
    """Mean over the crops of the policy crops(size=224,count=10,layout=fixed,shorter=512)."""
    session = opened_network(file)
    scale = json.loads(session.get_modelmeta().custom_metadata_map["qmamba.score"])
    image = opened_image(photograph)
    planes = [np.asarray(plane, np.float32) / 255 for plane in image.split()]
    if min(image.size) > SHORTER:
        sides = [int(side * SHORTER / min(image.size) + 0.5) for side in image.size]
        scaled = [
            Image.fromarray(plane).resize(sides, Image.Resampling.BICUBIC) for plane in planes
        ]
        planes = [np.asarray(plane).clip(0, 1) for plane in scaled]
    pixels = np.stack(planes)
    missing = [max(0, SIDE - side) for side in pixels.shape[1:]]
    padding = [(0, 0), *((side // 2, side - side // 2) for side in missing)]
    pixels = np.pad(pixels, padding, mode="reflect")
    down, across = (side - SIDE for side in pixels.shape[1:])
    if down <= across:
        corners = layout(down, across)
    else:
        corners = [(top, left) for left, top in layout(across, down)]
    crops = [pixels[:, top : top + SIDE, left : left + SIDE] for top, left in corners]
    try:
        scores = session.run(["score"], {"image": np.stack(crops)})[0]
    except Exception as error:
        raise ValueError(
            f"{file!r} does not take {len(crops)} crops of {SIDE} x {SIDE} pixels; export a"
            " network for color images, without --static."
        ) from error
    return float(np.clip(scores.mean(), scale["low"], scale["high"]))


def opened_network(file: str) -> onnxruntime.InferenceSession:
    """A file of `qmamba export` that gives scores; any other is a ValueError."""
    if not os.path.isfile(file):
        raise ValueError(f"There is no file {file!r}; `qmamba export` writes one.")
    try:
        session = onnxruntime.InferenceSession(file)
    except Exception as error:  # ONNX Runtime has a class for each reason and none for all.
        raise ValueError(f"{file!r} is no ONNX file or a damaged one; export it anew.") from error
    if "qmamba.score" not in session.get_modelmeta().custom_metadata_map:
        raise ValueError(f"{file!r} gives no scores; `qmamba export` writes quality networks.")
    return session


def opened_image(photograph: str) -> Image.Image:
    """The image in RGB, turned as its EXIF data say; a ValueError if it cannot be read."""
    if not os.path.isfile(photograph):
        raise ValueError(f"There is no file {photograph!r}; check the name of the photograph.")
    try:
        with Image.open(photograph) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # Damaged files raise more than OSError in Pillow.
        raise ValueError(
            f"{photograph!r} is damaged or no image that Pillow reads; save it as JPEG or PNG."
        ) from error


def layout(down: int, across: int) -> list[tuple[int, int]]:
    """Crops that can move so many pixels, in rows, as far from each other as possible."""
    if (down + 1) * (across + 1) <= COUNT:
        return [(top, left) for top in range(down + 1) for left in range(across + 1)]
    found = []
    for rows in range(1, min(COUNT, down + 1) + 1):
        # Crops that are left over go to the middle row if they are odd, then to the outer ones.
        order = [row for first in range(rows) for row in (first, rows - 1 - first)]
        order = [rows // 2] * (COUNT % rows % 2) + order
        longer = list(dict.fromkeys(order))[: COUNT % rows]
        found.append(
            [
                (top, left)
                for row, top in enumerate(spread(down, rows))
                for left in spread(across, COUNT // rows + (row in longer))
            ]
        )
    return max(found, key=distances)


def spread(travel: int, count: int) -> list[int]:
    """Positions from one border to the other, one alone in the middle."""
    steps = count - 1
    return (
        [(2 * i * travel + steps) // (2 * steps) for i in range(count)] if steps else [travel // 2]
    )


def distances(corners: list[tuple[int, int]]) -> tuple[int, int]:
    """Squared distance of each crop to its neighbor: the least, and the sum."""
    points = np.array(corners)
    squares = ((points[:, None] - points) ** 2).sum(-1) + np.diag([2**40] * len(points))
    return int(squares.min()), int(squares.min(1).sum())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(f"Usage: python {sys.argv[0]} NETWORK.onnx PHOTOGRAPH", file=sys.stderr)
        sys.exit(2)
    try:
        print(score(*sys.argv[1:]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
