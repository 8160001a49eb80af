from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from qmamba.errors import ConfigError, ImageError
from qmamba.images import limit_decoding_memory, read_image
from qmamba.images.budget import DEFAULT_DECODING_BYTES, claimed
from tests.images.image_files import PNG_RGBA, encoded, png16


@pytest.fixture(autouse=True)
def usual_budget() -> Iterator[None]:
    yield
    limit_decoding_memory(DEFAULT_DECODING_BYTES)


def test_an_image_beyond_the_budget_is_refused_before_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deep = png16(np.zeros((100, 100, 4), np.uint16), PNG_RGBA)
    plain = encoded(Image.new("RGB", (100, 100)), "PNG")
    limit_decoding_memory(200_000)
    assert read_image(plain).pixels.shape == (100, 100, 3)

    def decode(*_: object) -> None:
        raise AssertionError("a pixel was about to be decoded")

    monkeypatch.setattr(Image.core, "new", decode)
    with pytest.raises(ImageError, match=r"takes up to 0.00 GiB and the budget is .*--memory"):
        read_image(deep)


def test_large_images_go_one_at_a_time() -> None:
    limit_decoding_memory(100)
    active, most = 0, 0
    lock = threading.Lock()

    def work(size: int) -> None:
        nonlocal active, most
        with claimed(size):
            with lock:
                active += size
                most = max(most, active)
            threading.Event().wait(0.002)
            with lock:
                active -= size

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [60, 10, 90, 30, 100, 5] * 5))
    assert active == 0 and 60 <= most <= 100


def test_errors_give_memory_back() -> None:
    limit_decoding_memory(200_000)
    whole = encoded(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)), "PNG"
    )
    for _ in range(20):
        with pytest.raises(ImageError):
            read_image(whole[:2000])
    assert read_image(whole).pixels.shape == (100, 100, 3)


@pytest.mark.parametrize("limit", [0, -1, 1.5, "4"])
def test_what_is_no_budget(limit: int) -> None:
    with pytest.raises(ConfigError, match="positive number"):
        limit_decoding_memory(limit)
