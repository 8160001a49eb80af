"""Data sets of photographs with their own faults: LIVE Challenge, KonIQ-10k, LIVE-FB, SPAQ.

Every image is a content of its own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qmamba.datasets.adapter import Adapter, Labels, first_file, first_folder
from qmamba.datasets.formats.label_files import read_csv
from qmamba.datasets.formats.matlab import mat_names, mat_vector
from qmamba.datasets.formats.spreadsheet import read_sheet
from qmamba.datasets.records import RatedImage
from qmamba.errors import DataError

_LIVEC_ENTRIES = 1169
_LIVEC_TRAINING = 7


def read_livec_labels(root: Path) -> Labels:
    """LIVE In the Wild Image Quality Challenge: 1162 photographs.

    Scores are MOS from 0 to 100 (3.42 to 92.43 occur), higher is better, from
    `Data/AllMOS_release.mat`; names from `Data/AllImages_release.mat`. Both hold 1169 entries: the
    first seven (`t1` to `t7`) are the images that raters were trained with and are left out.
    Anything that counts positions in the untrimmed list is off by seven.

    Where no .mat file is there, the comma-separated list `LIVE_Challenge.txt` of the IQA-Dataset
    collection (`dis_img_path,dis_type,score`) is read. It lacks `100.bmp`, which is reported.
    """
    data = root / "Data"
    source = data / "AllMOS_release.mat"
    if not source.is_file() and (root / "LIVE_Challenge.txt").is_file():
        return _livec_list(root / "LIVE_Challenge.txt")
    scores = mat_vector(source, "AllMOS_release", _LIVEC_ENTRIES)
    names = mat_names(data / "AllImages_release.mat", "AllImages_release", _LIVEC_ENTRIES)
    training = [f"t{number}" for number in range(1, _LIVEC_TRAINING + 1)]
    if sorted(Path(name).stem for name in names[:_LIVEC_TRAINING]) != training:
        raise DataError(
            f"The first seven names in {str(data / 'AllImages_release.mat')!r} are not the training"
            " images t1 to t7; get the original file, whose list is not trimmed."
        )
    images = tuple(
        _photograph(name, Path("Images", name), float(score))
        for name, score in zip(names[_LIVEC_TRAINING:], scores[_LIVEC_TRAINING:], strict=True)
    )
    return Labels(source, images)


def _livec_list(path: Path) -> Labels:
    images = []
    for row in read_csv(path, ("dis_img_path", "score")):
        name = row.text("dis_img_path").rpartition("/")[2]
        images.append(_photograph(name, Path("Images", name), row.number("score")))
    return Labels(path, tuple(images), ("scores of the list LIVE_Challenge.txt",))


KONIQ_SPLITS = {"training": "train", "validation": "val", "test": "test"}
"""Official parts of KonIQ-10k and how they are called here."""

_KONIQ_LISTS = (
    "koniq10k_scores_and_distributions.csv",
    "koniq10k_scores.csv",
    "koniq10k_distributions_sets.csv",
)


def read_koniq10k_labels(root: Path) -> Labels:
    """KonIQ-10k: 10073 photographs.

    Scores run from 0 to 100 (3.91 to 88.39 occur), higher is better. Two scales are published
    under the name MOS: `koniq10k_scores_and_distributions.csv` and `koniq10k_scores.csv` hold this
    one as `MOS_zscore`, and a `MOS` from 1 to 5 that is not used here;
    `koniq10k_distributions_sets.csv` holds this one as `MOS`. The first of the three files that is
    there gives the scores. The third also gives the official parts: 7058 training, 1000
    validation (here "val") and 2015 test images; without it parts are unknown.

    Images are taken from `1024x768/`, and from `512x384/` where that is missing, which a note
    says.
    """
    parts: dict[str, str] = {}
    sets = root / _KONIQ_LISTS[2]
    if sets.is_file():
        for row in read_csv(sets, ("image_name", "MOS", "set")):
            part = row.text("set")
            if part not in KONIQ_SPLITS:
                raise row.error(f"the set {part!r} is none of {', '.join(KONIQ_SPLITS)}")
            parts[row.text("image_name")] = KONIQ_SPLITS[part]
    source = first_file(root, _KONIQ_LISTS)
    column = "MOS" if source == sets else "MOS_zscore"
    folder = first_folder(root, ("1024x768", "512x384"))
    images = []
    for row in read_csv(source, ("image_name", column)):
        name = row.text("image_name")
        if parts and name not in parts:
            raise row.error(f"{name!r} is not listed in {sets.name!r}; get both files again")
        images.append(
            _photograph(name, Path(folder, name), row.number(column), split=parts.get(name))
        )
    notes = ("images of 512x384, not the original 1024x768",) if folder == "512x384" else ()
    return Labels(source, tuple(images), notes)


_FLIVE_TEST = ("labels640.csv", "labels>640.csv")
_FLIVE_VALIDATION = ("labels=640_padded.csv", "labels<=640_padded.csv")


def read_flive_labels(root: Path) -> Labels:
    """LIVE-FB (FLIVE, PaQ-2-PiQ): 39810 photographs.

    Scores are MOS from 0 to 100 (0 to 94.33 occur), higher is better, from `labels_image.csv`
    (`name,mos`; the name includes the folder below `database/`). Scores of patches are not read.

    The official test part is listed in `labels640.csv` (1827 rows, column `name_image`); where
    that file is there, all other images are "train", except those that `labels=640_padded.csv`
    marks `is_valid`, which are "val". Both files are also published with "<" or ">" in the name.
    """
    source = root / "labels_image.csv"
    images = [
        _photograph(row.text("name"), Path("database", row.text("name")), row.number("mos"))
        for row in read_csv(source, ("name", "mos"))
    ]
    test_list = first_file(root, _FLIVE_TEST)
    if test_list.is_file():
        parts = _flive_parts(test_list, first_file(root, _FLIVE_VALIDATION))
        known = {image.path.name for image in images}
        if unknown := sorted(parts.keys() - known):
            raise DataError(
                f"{unknown[0]!r} is in a {parts[unknown[0]]} list beside {str(source)!r} and not in"
                " that file; get the label files again"
            )
        images = [replace(image, split=parts.get(image.path.name, "train")) for image in images]
    return Labels(source, tuple(images))


def _flive_parts(test_list: Path, validation_list: Path) -> dict[str, str]:
    """The part of every image that is not "train", by file name without folder.

    File names are unique, and the lists may give other folders than `labels_image.csv`.
    """
    parts = {}
    if validation_list.is_file():
        for row in read_csv(validation_list, ("name_image", "is_valid")):
            if row.text("is_valid").lower() in ("true", "1"):
                parts[row.text("name_image").rpartition("/")[2]] = "val"
    for row in read_csv(test_list, ("name_image",)):
        parts[row.text("name_image").rpartition("/")[2]] = "test"
    return parts


def read_spaq_labels(root: Path) -> Labels:
    """SPAQ: 11125 photographs by smartphones.

    Scores are MOS from 0 to 100 (2 to 96 occur), higher is better, from the first sheet of
    `Annotations/MOS and Image attribute scores.xlsx` (`Image name, MOS, ...`). Images lie in
    `TestImage/` and are large; published results usually resize the shorter side to 512 first.
    There is no official split.
    """
    source = root / "Annotations" / "MOS and Image attribute scores.xlsx"
    images = tuple(
        _photograph(
            row.text("Image name"), Path("TestImage", row.text("Image name")), row.number("MOS")
        )
        for row in read_sheet(source, ("Image name", "MOS"))
    )
    return Labels(source, images)


def _photograph(name: str, path: Path, mos: float, split: str | None = None) -> RatedImage:
    return RatedImage(name, path, mos, content=name, split=split)


LIVEC = Adapter(
    name="livec",
    title="LIVE Challenge",
    label_files=(("Data/AllMOS_release.mat", ""), ("LIVE_Challenge.txt", "dis_img_path")),
    read_labels=read_livec_labels,
    count=1162,
    contents=None,
    scale=(0.0, 100.0),
    higher_is_better=True,
    score_range=(3.42, 92.432),
)
KONIQ10K = Adapter(
    name="koniq10k",
    title="KonIQ-10k",
    label_files=tuple((name, "") for name in _KONIQ_LISTS),
    read_labels=read_koniq10k_labels,
    count=10073,
    contents=None,
    scale=(0.0, 100.0),
    higher_is_better=True,
    score_range=(3.91176, 88.38889),
)
FLIVE = Adapter(
    name="flive",
    title="LIVE-FB",
    label_files=(("labels_image.csv", ""),),
    read_labels=read_flive_labels,
    count=39810,
    contents=None,
    scale=(0.0, 100.0),
    higher_is_better=True,
    score_range=(0.0, 94.33323),
)
SPAQ = Adapter(
    name="spaq",
    title="SPAQ",
    label_files=(("Annotations/MOS and Image attribute scores.xlsx", ""),),
    read_labels=read_spaq_labels,
    count=11125,
    contents=None,
    scale=(0.0, 100.0),
    higher_is_better=True,
    score_range=(2.0, 96.0),
)
