"""Mutated image files through scoring and restoring: each gives a row, whatever it holds.

What counts as a fault: an exception that is no `ImageError`, a message that is not one sentence, a
process that dies, an image that takes more than `SLOWEST` seconds, or more than `MEMORY` bytes
above what the process had before.
"""

from __future__ import annotations

import io
import random
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from qmamba.errors import ImageError
from qmamba.images import read_image, read_layers, write_layers

FILES = 2000
"""Files of a full run."""
SLOWEST = 10.0
MEMORY = 1 << 30
_LIMIT = 4_000_000


def seeds() -> dict[str, bytes]:
    """Small sound files of every format and of many arrangements of samples."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 4), dtype=np.uint8)
    rgba = Image.fromarray(noise)
    rgb, gray = rgba.convert("RGB"), rgba.convert("L")
    exif = Image.Exif()
    exif[274], exif[271], exif[305] = 6, "maker", "program"
    files: dict[str, bytes] = {}

    def add(name: str, image: Image.Image, file_format: str, **options: object) -> None:
        stream = io.BytesIO()
        image.save(stream, file_format, **options)
        files[name] = stream.getvalue()

    for mode, image in {
        "rgb": rgb,
        "gray": gray,
        "rgba": rgba,
        "palette": rgb.quantize(32),
    }.items():
        add(f"png-{mode}", image, "PNG", exif=exif, dpi=(72, 72))
        add(f"webp-{mode}", image.convert("RGBA" if mode == "rgba" else "RGB"), "WEBP", exif=exif)
        add(f"bmp-{mode}", image, "BMP")
        for compression in ("raw", "tiff_adobe_deflate", "tiff_lzw", "packbits"):
            add(f"tiff-{mode}-{compression}", image, "TIFF", compression=compression)
    add("png-16", Image.fromarray(noise[..., 0].astype(np.uint16) * 257), "PNG")
    add("webp-lossless", rgba, "WEBP", lossless=True)
    add("gif", rgb.quantize(16), "GIF", save_all=True, append_images=[rgb.quantize(8)])
    kinds: dict[str, dict[str, object]] = {
        "plain": {},
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_blocks": 2},
        "subsampled": {"subsampling": 2},
    }
    for name, options in kinds.items():
        add(f"jpeg-{name}", rgb, "JPEG", exif=exif, xmp=b"<x tiff:Orientation='3'/>", **options)
    add("jpeg-cmyk", rgb.convert("CMYK"), "JPEG")
    add("tiff-float", gray.convert("F").point(lambda value: value / 255), "TIFF")
    add("tiff-jpeg", rgb, "TIFF", compression="jpeg")
    return files


def _flip(data: bytearray, random_: random.Random) -> None:
    for _ in range(random_.choice((1, 2, 8, 64))):
        data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)


def _cut(data: bytearray, random_: random.Random) -> None:
    del data[random_.randrange(len(data)) :]


def _zero(data: bytearray, random_: random.Random) -> None:
    start = random_.randrange(len(data))
    end = min(len(data), start + random_.choice((4, 64, 4096)))
    data[start:end] = bytes(end - start)


def _number(data: bytearray, random_: random.Random) -> None:
    """An extreme number where sizes, counts and offsets may stand."""
    values = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 65_500, 40_000)
    packed = struct.pack(random_.choice("<>") + random_.choice("HI"), 0)
    value = random_.choice(values) & ((1 << 8 * len(packed)) - 1)
    start = random_.randrange(min(len(data), 600))
    data[start : start + len(packed)] = value.to_bytes(
        len(packed), random_.choice(("big", "little"))
    )


def _repeat(data: bytearray, random_: random.Random) -> None:
    start = random_.randrange(len(data))
    piece = data[start : start + random_.choice((12, 100, 1000))]
    data[start:start] = piece * random_.choice((1, 5, 200))


def _swap(data: bytearray, random_: random.Random) -> None:
    first, second = sorted(random_.randrange(len(data)) for _ in range(2))
    size = random_.choice((4, 12, 200))
    data[first : first + size], data[second : second + size] = (
        data[second : second + size],
        data[first : first + size],
    )


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip, _cut, _zero, _number, _repeat, _swap),
)


def _sealed(data: bytearray) -> None:
    """Right checksums for the chunks of a PNG file, so that damage gets past them."""
    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        if place + 12 + length > len(data):
            return
        body = bytes(data[place + 4 : place + 8 + length])
        struct.pack_into(">I", data, place + 8 + length, zlib.crc32(body))
        place += 12 + length


def mutated(seed: int, sound: dict[str, bytes]) -> tuple[str, bytes]:
    """The name and bytes of the file of a seed."""
    random_ = random.Random(seed)
    name = random_.choice(sorted(sound))
    data = bytearray(sound[name])
    for _ in range(random_.choice((1, 1, 2, 4))):
        if data:
            random_.choice(MUTATIONS)(data, random_)
    if name.startswith("png") and random_.random() < 0.6:
        _sealed(data)
    return name, bytes(data)


def _peak() -> int:
    """Largest memory of the process so far, in bytes; 0 where nobody tells."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def faults(data: bytes) -> Iterator[str]:
    """What is wrong with how a file is treated; nothing where all is well."""
    for task in (_read, _rewrite):
        started, before = time.monotonic(), _peak()
        try:
            task(data)
        except ImageError as error:
            text = str(error)
            if not text or "\n" in text or not text.isprintable() or len(text) > 600:
                yield f"{task.__name__}: the message is no sentence: {text!r}"
        except Exception as error:
            yield f"{task.__name__}: {type(error).__name__}: {error}"
        seconds = time.monotonic() - started
        if seconds > SLOWEST:
            yield f"{task.__name__}: {seconds:.1f} s"
        if _peak() - before > MEMORY:
            yield f"{task.__name__}: {(_peak() - before) >> 20} MiB"


def _read(data: bytes) -> None:
    pixels = read_image(data, max_pixels=_LIMIT).pixels
    assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size


def _rewrite(data: bytes) -> None:
    """What restoring does around its network, whose result has other sides."""
    import tempfile
    from pathlib import Path

    layers = read_layers(data, max_pixels=_LIMIT)
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".png", ".tif", ".jpg", ".webp"):
            write_layers(Path(folder) / f"out{suffix}", layers)
            read_image(Path(folder) / f"out{suffix}", max_pixels=_LIMIT)


def run(seconds: float, seed: int, files: int = FILES) -> int:
    """Try files until the time or their number is used up; returns the number of faults."""
    sound = seeds()
    for name, data in sound.items():
        for fault in faults(data):
            print(f"sound file {name}: {fault}", flush=True)
            return 1
    found = 0
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + seconds
    tried = 0
    while tried < files and time.monotonic() < end:
        name, data = mutated(seed + tried, sound)
        problems = list(faults(data))
        for fault in problems:
            print(f"seed {seed + tried} ({name}): {fault}", flush=True)
        found += bool(problems)
        try:
            outcomes["noted" if read_image(data, max_pixels=_LIMIT).notes else "decoded"] += 1
        except ImageError:
            outcomes["refused"] += 1
        except Exception:
            outcomes["fault"] += 1
        tried += 1
    counts = ", ".join(f"{count} {what}" for what, count in sorted(outcomes.items()))
    print(f"files: seeds {seed} to {seed + tried - 1}, {counts}; {found} faults", flush=True)
    return found
