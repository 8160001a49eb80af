"""Data sets of pristine images damaged on purpose: LIVE, CSIQ, TID2013 and KADID-10k.

The content of an image is its reference image, so that parts split by content share none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from qmamba.datasets.adapter import Adapter, Labels, first_folder
from qmamba.datasets.formats.label_files import Row, read_csv, read_words
from qmamba.datasets.formats.matlab import mat_names, mat_vector
from qmamba.datasets.formats.spreadsheet import read_sheet
from qmamba.datasets.records import RatedImage
from qmamba.errors import DataError

LIVE_FOLDERS = (("jp2k", 227), ("jpeg", 233), ("wn", 174), ("gblur", 174), ("fastfading", 174))
"""Folders of LIVE in the order of its score vectors, with the number of images in each."""

_LIVE_ENTRIES = sum(count for _, count in LIVE_FOLDERS)
_LIVE_REFERENCES = 203


def read_live_labels(root: Path) -> Labels:
    """LIVE, release 2: 779 damaged images of 29 references.

    Scores are DMOS, so that LOWER is better, and the realigned ones run from -2.64 to 111.77, past
    both ends of 0 to 100. `dmos_realigned.mat` (`dmos_new`, `orgs`) is read; without it the older
    `dmos.mat` (`dmos`, `orgs`), whose scale is another one, which a note says.

    The vectors hold 982 entries in the order jp2k, jpeg, wn, gblur, fastfading, `img1.bmp` first in
    each folder. 203 of them (`orgs` = 1) are copies of the references with DMOS 0 and are left out.
    `refnames_all.mat` names the reference of each entry. Some JPEG images are equal pixel by
    pixel and differ in DMOS; they share a reference and stay.

    Where no .mat file is there, the comma-separated list `LIVE.txt` of the IQA-Dataset collection
    (`dis_img_path,dis_type,ref_img_path,score`, realigned DMOS) is read.
    """
    if not any((root / name).is_file() for name in ("refnames_all.mat", "dmos_realigned.mat")):
        return _live_list(root / "LIVE.txt")
    source, key = root / "dmos_realigned.mat", "dmos_new"
    notes: tuple[str, ...] = ()
    realigned = source.is_file() or not (root / "dmos.mat").is_file()
    if not realigned:
        source, key = root / "dmos.mat", "dmos"
        notes = ("scores of dmos.mat, which are not realigned; results usually use the realigned",)
    scores = mat_vector(source, key, _LIVE_ENTRIES)
    copies = mat_vector(source, "orgs", _LIVE_ENTRIES) == 1
    references = mat_names(root / "refnames_all.mat", "refnames_all", _LIVE_ENTRIES)
    if copies.sum() != _LIVE_REFERENCES:
        raise DataError(
            f"'orgs' in {str(source)!r} marks {copies.sum()} reference copies where LIVE has"
            f" {_LIVE_REFERENCES}; get the original file"
        )
    indices = [(folder, number) for folder, count in LIVE_FOLDERS for number in range(1, count + 1)]
    images = tuple(
        _live_image(f"{folder}/img{number}.bmp", float(score), reference)
        for (folder, number), score, reference, copy in zip(
            indices, scores, references, copies, strict=True
        )
        if not copy
    )
    return Labels(source, images, notes, unusual_scale=not realigned)


def _live_list(path: Path) -> Labels:
    rows = read_csv(path, ("dis_img_path", "ref_img_path", "score"))
    images = []
    for row in rows:
        name = "/".join(row.text("dis_img_path").split("/")[-2:])
        if name.split("/")[0] not in dict(LIVE_FOLDERS):
            raise row.error(f"{name!r} is not in a folder of LIVE; get the original list")
        images.append(_live_image(name, row.number("score"), row.text("ref_img_path")))
    return Labels(path, tuple(images), ("scores of the list LIVE.txt",))


def _live_image(name: str, dmos: float, reference: str) -> RatedImage:
    content = Path(reference).stem.lower()
    return RatedImage(name, Path(name), dmos, content, distortion=name.split("/")[0])


CSIQ_TYPES = {
    "awgn": "AWGN",
    "blur": "BLUR",
    "contrast": "contrast",
    "fnoise": "fnoise",
    "jpeg": "JPEG",
    "jpeg2000": "jpeg2000",
}
"""Folders of CSIQ and how its file names spell the same kind of damage."""


def read_csiq_labels(root: Path) -> Labels:
    """CSIQ: 866 damaged images of 30 references; six kinds of damage, four or five levels.

    Scores are DMOS from 0 to 1, so that LOWER is better. The list `csiq_label.txt`
    (`1600.AWGN.1.png 0.061989`, no header) is read, and without it the sheet `all_by_image` of the
    official `csiq.DMOS.xlsx`, which calls the kinds "noise" and "jpeg 2000" and stores the
    reference 1600 as a number.

    Images lie in `dst_imgs/<kind>/`, or all together in `dst_imgs_all/` or `dst_imgs/`. File
    names say AWGN, BLUR and JPEG where the folders are in lower case.
    """
    listed, workbook = root / "csiq_label.txt", root / "csiq.DMOS.xlsx"
    source = listed if listed.is_file() or not workbook.is_file() else workbook
    rows: Iterable[tuple[Row, str, str, str]]
    if source == listed:
        rows = (
            (row, *_csiq_parts(row, row.text("image"))) for row in read_words(listed, _CSIQ_WORDS)
        )
    else:
        rows = (
            (row, row.text("image"), row.text("dst_type"), row.text("dst_lev"))
            for row in read_sheet(workbook, _CSIQ_COLUMNS, "all_by_image")
        )
    folder = first_folder(root, ("dst_imgs", "dst_imgs_all"))
    nested = folder == "dst_imgs" and any((root / folder / kind).is_dir() for kind in CSIQ_TYPES)
    images = []
    for row, content, kind, level in rows:
        kind = _CSIQ_WORKBOOK_TYPES.get(kind, kind.lower())
        if kind not in CSIQ_TYPES or level not in ("1", "2", "3", "4", "5"):
            raise row.error(f"{kind!r} at level {level!r} is not damage of CSIQ")
        name = f"{content}.{CSIQ_TYPES[kind]}.{level}.png"
        path = Path(folder, kind, name) if nested else Path(folder, name)
        images.append(
            RatedImage(name, path, row.number("dmos"), content, distortion=kind, level=int(level))
        )
    return Labels(source, tuple(images))


_CSIQ_WORKBOOK_TYPES = {"noise": "awgn", "jpeg 2000": "jpeg2000"}
_CSIQ_WORDS = ("image", "dmos")
_CSIQ_COLUMNS = ("image", "dst_type", "dst_lev", "dmos")


def _csiq_parts(row: Row, name: str) -> tuple[str, str, str]:
    parts = name.split(".")
    if len(parts) != 4:
        raise row.error(f"{name!r} is not <reference>.<kind>.<level>.png; get the original list")
    return parts[0], parts[1], parts[2]


def read_tid2013_labels(root: Path) -> Labels:
    """TID2013: 3000 damaged images of 25 references; 24 kinds of damage at 5 levels.

    Scores are MOS, higher is better, nominally 0 to 9 (0.24 to 7.21 occur), from
    `mos_with_names.txt` (`5.51429 I01_01_1.bmp`, score first, no header).

    Upper and lower case differ between the list (75 names begin with "I", some end in ".BMP") and
    the disk, so files are looked up without regard to case and names here are lower case.
    """
    source = root / "mos_with_names.txt"
    images = []
    for row in read_words(source, ("mos", "image")):
        listed = row.text("image")
        name = listed.lower()
        parts = re.fullmatch(r"i(\d\d)_(\d\d)_(\d)\.bmp", name)
        if parts is None:
            raise row.error(
                f"{listed!r} is not i<reference>_<kind>_<level>.bmp; get the original file"
            )
        images.append(
            RatedImage(
                name,
                Path("distorted_images", listed),
                row.number("mos"),
                content=f"i{parts[1]}",
                distortion=parts[2],
                level=int(parts[3]),
            )
        )
    return Labels(source, tuple(images))


def read_kadid10k_labels(root: Path) -> Labels:
    """KADID-10k: 10125 damaged images of 81 references; 25 kinds of damage at 5 levels.

    The column of `dmos.csv` (`dist_img,ref_img,dmos,var`) is called dmos, but its numbers are like
    MOS: from 1 to 4.93, HIGHER is better. Images lie in `images/`.
    """
    source = root / "dmos.csv"
    images = []
    for row in read_csv(source, ("dist_img", "ref_img", "dmos")):
        name = row.text("dist_img")
        parts = re.fullmatch(r"(I\d\d)_(\d\d)_(\d\d)\.png", name)
        if parts is None or row.text("ref_img") != f"{parts[1]}.png":
            raise row.error(
                f"{name!r} is not <reference>_<kind>_<level>.png of {row.text('ref_img')!r}; get"
                " the original file"
            )
        images.append(
            RatedImage(
                name,
                Path("images", name),
                row.number("dmos"),
                content=parts[1],
                distortion=parts[2],
                level=int(parts[3]),
            )
        )
    return Labels(source, tuple(images))


LIVE = Adapter(
    name="live",
    title="LIVE",
    label_files=(("refnames_all.mat", ""), ("LIVE.txt", "dis_img_path")),
    read_labels=read_live_labels,
    count=779,
    contents=29,
    scale=(-3.0, 112.0),
    higher_is_better=False,
    score_range=(-2.64, 111.77),
)
CSIQ = Adapter(
    name="csiq",
    title="CSIQ",
    label_files=(("csiq_label.txt", ""), ("csiq.DMOS.xlsx", "")),
    read_labels=read_csiq_labels,
    count=866,
    contents=30,
    scale=(0.0, 1.0),
    higher_is_better=False,
    score_range=(0.0, 1.0),
)
TID2013 = Adapter(
    name="tid2013",
    title="TID2013",
    # TID2008 has a file of the same name and only four levels.
    label_files=(("mos_with_names.txt", "_24_5.bmp"),),
    read_labels=read_tid2013_labels,
    count=3000,
    contents=25,
    scale=(0.0, 9.0),
    higher_is_better=True,
    score_range=(0.24242, 7.21429),
)
KADID10K = Adapter(
    name="kadid10k",
    title="KADID-10k",
    label_files=(("dmos.csv", "dist_img"),),
    read_labels=read_kadid10k_labels,
    count=10125,
    contents=81,
    scale=(1.0, 5.0),
    higher_is_better=True,
    score_range=(1.0, 4.93),
)
