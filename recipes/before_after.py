"""The image of the documentation: damaged, restored and original side by side.

A photograph is damaged as published tables do it (shrunk by MATLAB's bicubic, with noise of a fixed
draw, or saved as JPEG), restored, and shown through a crop; a shrunk image is shown enlarged by
bicubic interpolation. Below each panel stands its PSNR to the original, over the whole image:

    python recipes/before_after.py examples/coffee.jpg --scale 2 -o docs/before_after.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from trial import EXAMPLES, parse

from qmamba.datasets.clean.images import read_clean
from qmamba.evaluation.restoration.protocol import judge
from qmamba.images import to_tensor
from qmamba.restore import Restorer
from qmamba.restore.degradations import Degradation, enlarge

GAP, CAPTION = 8, 26


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("original", nargs="?", type=Path, help="a clean photograph")
    parser.add_argument("-o", "--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--model", help="weights; without it the embedded ones for the task")
    parser.add_argument("--task", choices=("sr", "denoise", "jpeg"))
    parser.add_argument("--scale", type=int, help="factor of super-resolution")
    parser.add_argument("--sigma", type=float, help="deviation of the noise, 0 to 255")
    parser.add_argument("--quality", type=int, help="quality of the JPEG file")
    parser.add_argument("--crop", help="left,top,side of what is shown; the middle without it")
    parser.add_argument("--zoom", type=int, default=2, help="screen pixels per pixel")
    arguments = parse(parser, "-o {out}.png --scale 2 --crop 0,0,64")
    if arguments.original is None and not arguments.quick:
        parser.error("name a clean photograph")
    original = arguments.original or EXAMPLES / "coffee_small.png"
    restorer = Restorer.from_pretrained(
        arguments.model,
        task=arguments.task,
        scale=arguments.scale,
        sigma=arguments.sigma,
        quality=arguments.quality,
    )
    # Color images are damaged in color, also for a network that restores the luma.
    degradation = Degradation(
        restorer.task,
        restorer.scale,
        **_strength(restorer, arguments),
    )
    clean = degradation.clean(read_clean(original))
    damaged = np.round(degradation.benchmark(clean).clip(0, 1) * 255).astype(np.uint8)
    restored = restorer.restore(damaged).pixels
    shown = enlarge(damaged, restorer.scale) if restorer.scale > 1 else damaged
    border = restorer.scale if restorer.task == "sr" else 0
    panels = []
    for name, pixels in (
        ("bicubic" if border else str(degradation).split(", ")[-1], shown),
        ("restored", restored),
        ("original", clean),
    ):
        figure = judge(to_tensor(pixels)[None], clean, border=border)
        quality = "" if pixels is clean else f"  {figure.psnr:.2f} dB"
        panels.append((name + quality, _cut(pixels, arguments.crop)))
        print(f"{name}: PSNR {figure.psnr:.2f} dB, SSIM {figure.ssim:.4f}")
    _side_by_side(panels, arguments.zoom).save(arguments.out, optimize=True)
    print(f"{arguments.out}: {degradation}, model {restorer.metadata and restorer.metadata.name}")


def _strength(restorer: Restorer, arguments: argparse.Namespace) -> dict[str, Any]:
    """What is asked for, or the hard end of what the model was trained for."""
    if restorer.task == "sr":
        return {}
    name, hard_end = ("sigma", 1) if restorer.task == "denoise" else ("quality", 0)
    value = getattr(arguments, name)
    if value is None:
        trained = getattr(restorer.purpose, name, None)
        if trained is None:
            raise SystemExit(f"give --{name}, the model does not tell it")
        value = trained[hard_end]
    return {name: (value, value)}


def _cut(pixels: np.ndarray, crop: str | None) -> np.ndarray:
    height, width = pixels.shape[:2]
    side = min(160, height, width)
    left, top = (width - side) // 2, (height - side) // 2
    if crop is not None:
        left, top, side = map(int, crop.split(","))
    return pixels[top : top + side, left : left + side]


def _side_by_side(panels: list[tuple[str, np.ndarray]], zoom: int) -> Image.Image:
    height, width = (side * zoom for side in panels[0][1].shape[:2])
    sheet = Image.new("RGB", (len(panels) * (width + GAP) - GAP, height + CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    for index, (caption, pixels) in enumerate(panels):
        left = index * (width + GAP)
        # Whole pixels, so that the screen shows what the network made and no other filter.
        panel = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), 0)
        sheet.paste(panel, (left, 0))
        draw.text((left + 2, height + 4), caption, fill="black", font=font)
    return sheet


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
