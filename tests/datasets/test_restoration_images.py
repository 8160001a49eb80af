from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmamba.datasets.clean.images import find_clean_images, read_clean, split_clean_images
from qmamba.datasets.clean.test_sets import find_restoration_set
from qmamba.errors import DataError


def put(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 5, 3), shade, np.uint8)).save(path)
    return path


def test_div2k_trains_on_its_training_part(tmp_path: Path) -> None:
    for number in range(1, 4):
        put(tmp_path / "DIV2K" / "DIV2K_train_HR" / f"{number:04d}.png", number)
        put(tmp_path / "DIV2K" / "DIV2K_train_LR_bicubic" / "X2" / f"{number:04d}x2.png")
    put(tmp_path / "DIV2K" / "DIV2K_valid_HR" / "0801.png")
    put(tmp_path / "Flickr2K" / "Flickr2K_HR" / "000001.png")
    put(tmp_path / "Flickr2K" / "Flickr2K_LR_bicubic" / "X4" / "000001x4.png")
    images = find_clean_images([tmp_path])
    training, validation = split_clean_images(images)
    assert [image.path.name for image in training] == [
        "0001.png",
        "0002.png",
        "0003.png",
        "000001.png",
    ]
    assert [image.path.name for image in validation] == ["0801.png"]


def test_the_split_depends_on_names_alone(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        for number in range(40):
            put(tmp_path / folder / "deep" / f"image{number}.png")
    first, second = (
        split_clean_images(find_clean_images([tmp_path / folder])) for folder in ("a", "b")
    )
    assert len(first[1]) == 2 and len(first[0]) == 38
    names = [[image.path.name for image in part] for part in (*first, *second)]
    assert names[:2] == names[2:]


def test_tiles_of_one_photograph_stay_together(tmp_path: Path) -> None:
    for number in range(8):
        for tile in range(3):
            put(tmp_path / f"{number:04d}_s{tile:03d}.png")
    training, validation = split_clean_images(find_clean_images([tmp_path]))
    assert len(validation) == 3
    assert {image.content for image in validation} & {image.content for image in training} == set()


def test_excluded_images_are_known_by_their_pixels(tmp_path: Path) -> None:
    put(tmp_path / "clean" / "a.png", 1)
    put(tmp_path / "clean" / "b.bmp", 2)
    put(tmp_path / "test" / "other_name.png", 2)
    found = find_clean_images([tmp_path / "clean"], exclude=[tmp_path / "test"])
    assert [image.path.name for image in found] == ["a.png"]
    with pytest.raises(DataError, match="No clean images"):
        find_clean_images([tmp_path / "test"], exclude=[tmp_path])
    with pytest.raises(DataError, match="no folder"):
        find_clean_images([tmp_path / "nothing"])
    with pytest.raises(DataError, match="cannot be divided"):
        split_clean_images(found)


def test_sixteen_bits_are_rounded(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 257 * 9 + 128, 257 * 9 + 129, 65535]], np.uint16)).save(path)
    assert read_clean(path)[0, :, 0].tolist() == [0, 9, 10, 255]


def test_sets_in_the_layouts_that_go_around(tmp_path: Path) -> None:
    for name in ("baby", "bird"):
        put(tmp_path / "benchmark" / "Set5" / "HR" / f"{name}.png")
        put(tmp_path / "benchmark" / "Set5" / "LR_bicubic" / "X2" / f"{name}x2.png")
    put(tmp_path / "Urban100" / "image_SRF_2" / "img_001_SRF_2_HR.png")
    put(tmp_path / "Urban100" / "image_SRF_2" / "img_001_SRF_2_LR.png")
    put(tmp_path / "Manga109" / "Aisazu_HR_x2.png")
    put(tmp_path / "Manga109" / "Aisazu_LRBI_x2.png")
    put(tmp_path / "BSDS500" / "data" / "images" / "val" / "101085.jpg")
    put(tmp_path / "BSDS500" / "data" / "images" / "val" / "156065.jpg")
    put(tmp_path / "mine" / "one.png")

    five = find_restoration_set("set5", tmp_path)
    assert five is not None and five.names == ("baby", "bird") and not five.complete
    urban = find_restoration_set("Urban100", tmp_path)
    assert urban is not None and urban.names == ("img_001",)
    manga = find_restoration_set("Manga109", tmp_path)
    assert manga is not None and manga.names == ("Aisazu",)
    hundred = find_restoration_set("BSD100", tmp_path / "BSDS500")
    assert hundred is not None and hundred.names == ("101085", "156065")
    color = find_restoration_set("CBSD68", tmp_path / "BSDS500")
    assert color is not None and color.names == ("101085",)
    own = find_restoration_set("mine", tmp_path)
    assert own is not None and own.names == ("one",) and own.complete
    assert find_restoration_set("Kodak24", tmp_path) is None
    with pytest.raises(DataError, match="no folder"):
        find_restoration_set("Set5", tmp_path / "nowhere")


def test_the_sets_that_are_here(shared: Path) -> None:
    counts = {"Set5": 5, "Set14": 14, "BSD100": 100, "CBSD68": 68, "Kodak24": 24}
    for name, count in (counts | {"Classic5": 5, "LIVE1": 29}).items():
        found = find_restoration_set(name, shared / "data" / "sr")
        assert found is not None and found.complete and len(found.paths) == count


def test_nothing_of_bsd100_is_among_the_clean_images(shared: Path) -> None:
    clean = find_clean_images([shared / "data" / "clean"])
    hundred = find_restoration_set("BSD100", shared / "data" / "sr")
    assert hundred is not None and len(clean) == 387
    assert not {image.path.stem for image in clean} & {path.stem for path in hundred.paths}
