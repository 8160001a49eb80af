"""The adapters on real label files, where they are at hand."""

from __future__ import annotations

import csv
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from qmamba.datasets import read_csv_dataset, read_dataset
from qmamba.datasets.adapter import Labels, read_folder
from qmamba.datasets.formats.spreadsheet import sheet_cells
from qmamba.datasets.generated import aigciqa2023_place
from qmamba.datasets.registry import ADAPTERS
from qmamba.datasets.synthetic import LIVE_FOLDERS
from qmamba.errors import DataError
from tests.datasets.trees import cell_array, csiq_workbook, write_files, write_mat


@pytest.fixture(scope="module")
def formats(shared: Path) -> Path:
    folder = shared / "data" / "formats"
    if not folder.is_dir():
        pytest.skip(f"needs the label files in {folder}")
    return folder


def read_labels(name: str, root: Path) -> Labels:
    return ADAPTERS[name].read_labels(root)


def by_name(labels: Labels) -> dict[str, float]:
    return {image.name: image.mos for image in labels.images}


def by_level(labels: Labels) -> dict[tuple[str | None, int | None], float]:
    groups = defaultdict(list)
    for image in labels.images:
        groups[image.distortion, image.level].append(image.mos)
    return {key: mean(scores) for key, scores in groups.items()}


def live_list(formats: Path, root: Path) -> Path:
    shutil.copy(formats / "live" / "LIVE.waterloo.without_parrots.txt", root / "LIVE.txt")
    return root


def test_live_list(formats: Path, tmp_path: Path) -> None:
    labels = read_labels("live", live_list(formats, tmp_path))
    assert len(labels.images) == 752
    assert len({image.content for image in labels.images}) == 28
    kinds = Counter(image.distortion for image in labels.images)
    assert kinds == {"jp2k": 163, "jpeg": 169, "wn": 140, "gblur": 140, "fastfading": 140}
    image = labels.images[0]
    assert (image.name, image.content) == ("jp2k/img2.bmp", "studentsculpture")
    assert image.mos == pytest.approx(15.512954417537026)
    scores = by_name(labels).values()
    assert (min(scores), max(scores)) == pytest.approx((-2.64, 111.77), abs=0.005)
    reading = read_folder(ADAPTERS["live"], tmp_path)
    assert reading.problems[0].endswith("lists 752 images where LIVE has 779")


def test_live_vectors_of_the_real_scores(formats: Path, tmp_path: Path) -> None:
    listed = read_labels("live", live_list(formats, tmp_path))
    real = {image.name: image for image in listed.images}
    names = [f"{folder}/img{i}.bmp" for folder, count in LIVE_FOLDERS for i in range(1, count + 1)]
    absent = [name for name in names if name not in real]
    withheld = set(absent[:27])
    scores = [real[n].mos if n in real else 50.0 * (n in withheld) for n in names]
    copies = [float(name not in real and name not in withheld) for name in names]
    references = [real[n].content + ".bmp" if n in real else "parrots.bmp" for n in names]
    write_mat(tmp_path / "dmos_realigned.mat", dmos_new=np.array([scores]), orgs=np.array([copies]))
    write_mat(tmp_path / "refnames_all.mat", refnames_all=cell_array(references, (1, 982)))
    reading = read_folder(ADAPTERS["live"], tmp_path)
    assert len(reading.labels.images) == 779
    assert reading.scale == (-3.0, 112.0)
    assert not any("lists" in problem or "contents" in problem for problem in reading.problems)
    kept = [image for image in reading.labels.images if image.name in real]
    assert {image.name: image for image in kept} == real


def test_live_direction(formats: Path, shared: Path, tmp_path: Path) -> None:
    table = shared / "data" / "iqa" / "live_subset" / "scores.csv"
    if not table.is_file():
        pytest.skip(f"needs {table}")
    dmos = by_name(read_labels("live", live_list(formats, tmp_path)))
    turned = [row for row in csv.DictReader(table.open()) if "mean" not in row["raw_score_type"]]
    known = [(row, row["original_name"].split()[0]) for row in turned]
    matched = [(float(row["mos"]), dmos[name]) for row, name in known if name in dmos]
    assert len(matched) > 30
    assert sum(abs(mos - (100 - score)) < 0.01 for mos, score in matched) > 0.9 * len(matched)
    assert not ADAPTERS["live"].higher_is_better


def test_csiq(formats: Path, tmp_path: Path) -> None:
    labels = read_labels("csiq", formats / "csiq")
    assert len(labels.images) == 866
    assert len({image.content for image in labels.images}) == 30
    kinds = Counter(image.distortion for image in labels.images)
    assert kinds.pop("contrast") == 116
    assert kinds == dict.fromkeys(("awgn", "blur", "fnoise", "jpeg", "jpeg2000"), 150)
    scores = by_name(labels)
    assert scores["1600.AWGN.1.png"] == 0.061989
    assert (min(scores.values()), max(scores.values())) == (0.0, 1.0)
    levels = by_level(labels)
    assert all(levels[kind, 1] < levels[kind, 5] for kind in kinds)
    write_files(tmp_path / "dst_imgs_all", list(scores))
    shutil.copy(formats / "csiq" / "csiq_label.txt", tmp_path)
    dataset = read_dataset("csiq", tmp_path)
    assert len(dataset) == 866 and not dataset.higher_is_better


def test_csiq_workbook(formats: Path, tmp_path: Path) -> None:
    listed = by_name(read_labels("csiq", formats / "csiq"))
    text = (formats / "csiq" / "csiq.DMOS_all_by_distortion.txt").read_text()
    rows = [line.split("\t") for line in text.splitlines()]
    csiq_workbook(
        tmp_path,
        [
            (image, kind.replace("jpeg2000", "jpeg 2000"), int(level), float(dmos))
            for image, _, kind, level, _, dmos in rows
        ],
    )
    scores = by_name(read_labels("csiq", tmp_path))
    assert scores.keys() == listed.keys()
    assert all(abs(scores[name] - listed[name]) < 6e-4 for name in listed)


def test_tid2013(formats: Path, tmp_path: Path) -> None:
    labels = read_labels("tid2013", formats / "tid2013")
    scores = by_name(labels)
    assert len(scores) == 3000
    assert len({image.content for image in labels.images}) == 25
    assert sum(image.path.name.startswith("I") for image in labels.images) == 75
    assert scores["i01_01_1.bmp"] == 5.51429
    assert (min(scores.values()), max(scores.values())) == (0.24242, 7.21429)
    levels = by_level(labels)
    falling = sum(levels[f"{kind:02d}", 1] > levels[f"{kind:02d}", 5] for kind in range(1, 25))
    assert falling >= 23
    names = [image.path.as_posix() for image in labels.images]
    write_files(tmp_path, [f"distorted_images/{Path(name).name.lower()}" for name in names])
    shutil.copy(formats / "tid2013" / "mos_with_names.txt", tmp_path)
    dataset = read_dataset("tid2013", tmp_path)
    assert len(dataset) == 3000
    order = [float(line) for line in (formats / "tid2013" / "mos.txt").read_text().split()]
    assert dataset.scores.tolist() == order


def test_kadid10k(formats: Path, tmp_path: Path) -> None:
    source = formats / "kadid10k" / "image_labeled_by_per_noise.metaiqa.csv"
    with (tmp_path / "dmos.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("dist_img", "ref_img", "dmos", "var"))
        for row in csv.DictReader(source.open()):
            writer.writerow((row["image"], row["reference"], row["dmos"], 0.5))
    labels = read_labels("kadid10k", tmp_path)
    scores = by_name(labels)
    assert len(scores) == 10125
    assert len({image.content for image in labels.images}) == 81
    assert (min(scores.values()), max(scores.values())) == (1.0, 4.93)
    assert scores["I01_01_01.png"] == 4.57
    levels = by_level(labels)
    assert mean(levels[f"{k:02d}", 1] - levels[f"{k:02d}", 5] for k in range(1, 26)) > 1.0
    assert read_folder(ADAPTERS["kadid10k"], tmp_path).scale == (1.0, 5.0)


def livec_scores(formats: Path) -> dict[str, float]:
    """All 1162 images, of a list that divides MOS by 100 and rounds it."""
    rows = csv.DictReader((formats / "livec" / "image_labeled_by_score.metaiqa.csv").open())
    return {row["image"]: 100 * float(row["mos"]) for row in rows}


def test_livec_list(formats: Path, tmp_path: Path) -> None:
    shutil.copy(formats / "livec" / "LIVE_Challenge.waterloo.txt", tmp_path / "LIVE_Challenge.txt")
    labels = read_labels("livec", tmp_path)
    scores, complete = by_name(labels), livec_scores(formats)
    assert set(complete) - set(scores) == {"100.bmp"}
    assert all(abs(scores[name] - complete[name]) < 0.001 for name in scores)
    assert scores["101.bmp"] == 66.3595
    reading = read_folder(ADAPTERS["livec"], tmp_path)
    assert "lists 1161 images where LIVE Challenge has 1162" in reading.problems[0]


def test_livec_vectors_of_the_real_scores(formats: Path, tmp_path: Path) -> None:
    complete = livec_scores(formats)
    names = [f"t{number}.bmp" for number in range(1, 8)] + list(complete)
    scores = np.array([50.0] * 7 + list(complete.values()))
    write_mat(
        tmp_path / "Data" / "AllImages_release.mat",
        AllImages_release=cell_array(names, (1169, 1)),
    )
    write_mat(tmp_path / "Data" / "AllMOS_release.mat", AllMOS_release=scores[None])
    write_files(tmp_path / "Images", list(complete))
    dataset = read_dataset("livec", tmp_path)
    assert dict(zip(dataset.names, dataset.scores, strict=True)) == complete
    endings = Counter(Path(name).suffix for name in dataset.names)
    assert endings == {".bmp": 535, ".JPG": 627}


def test_koniq10k(formats: Path, tmp_path: Path) -> None:
    labels = read_labels("koniq10k", formats / "koniq10k")
    assert labels.source.name == "koniq10k_scores.csv"
    scores = by_name(labels)
    assert len(scores) == 10073
    assert scores["826373.jpg"] == 77.7457983193277
    assert (min(scores.values()), max(scores.values())) == pytest.approx((3.91, 88.39), abs=0.005)
    parts = Counter(image.split for image in labels.images)
    assert parts == {"train": 7058, "val": 1000, "test": 2015}
    shutil.copy(formats / "koniq10k" / "koniq10k_distributions_sets.csv", tmp_path)
    alone = by_name(read_labels("koniq10k", tmp_path))
    assert alone.keys() == scores.keys()
    assert max(abs(alone[name] - scores[name]) for name in scores) < 1e-9
    shutil.copy(formats / "koniq10k" / "koniq10k_scores.csv", tmp_path)
    table = tmp_path / "koniq10k_scores.csv"
    table.write_text(table.read_text().replace("MOS_zscore", "z").replace('"MOS"', '"MOS_zscore"'))
    with pytest.raises(DataError, match="another scale or altered"):
        read_folder(ADAPTERS["koniq10k"], tmp_path)


def test_flive(formats: Path) -> None:
    labels = read_labels("flive", formats / "flive")
    scores = by_name(labels)
    assert len(scores) == 39810
    folders = Counter(name.split("/")[0] for name in scores)
    assert folders == {"voc_emotic_ava": 38808, "blur_dataset": 999, "EE371R": 3}
    assert scores["blur_dataset/motion0044.jpg"] == 75.44372347614072
    assert (min(scores.values()), max(scores.values())) == pytest.approx((0, 94.33), abs=0.005)
    parts = Counter(image.split for image in labels.images)
    assert parts == {"train": 39810 - 1827, "test": 1827}
    assert len({image.path.name for image in labels.images}) == 39810


def test_spaq(formats: Path, tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    shutil.copy(formats / "spaq" / "MOS and Image attribute scores.xlsx", tmp_path / "Annotations")
    labels = read_labels("spaq", tmp_path)
    scores = by_name(labels)
    assert len(scores) == 11125
    assert (scores["00001.jpg"], scores["00002.jpg"]) == (48.86, 62.5)
    assert (min(scores.values()), max(scores.values())) == (2.0, 96.0)
    assert labels.images[-1].path == Path("TestImage/11125.jpg")
    assert read_folder(ADAPTERS["spaq"], tmp_path).scale == (0.0, 100.0)


def test_agiqa3k(formats: Path) -> None:
    labels = read_labels("agiqa3k", formats / "agiqa3k")
    scores = by_name(labels)
    assert len(scores) == 2982
    assert scores["AttnGAN_normal_000.jpg"] == 0.965602553
    assert (min(scores.values()), max(scores.values())) == pytest.approx((0, 4.489), abs=5e-4)
    generators = Counter(image.generator for image in labels.images)
    assert generators["midjourney_normal"] == generators["midjourney_lowstep"] == 296
    assert generators["DALLE2_normal"] == 290
    assert len(generators) == 10
    prompts = defaultdict(set)
    rows = csv.DictReader((formats / "agiqa3k" / "data.csv").open())
    for image, row in zip(labels.images, rows, strict=True):
        prompts[image.content].add(row["prompt"])
    assert len(prompts) == 300
    assert all(len(texts) == 1 for texts in prompts.values())
    better = mean(i.mos for i in labels.images if i.generator == "midjourney_normal")
    worse = mean(i.mos for i in labels.images if i.generator == "AttnGAN_normal")
    assert better > worse + 1


def test_aigciqa2023(formats: Path, tmp_path: Path) -> None:
    rows = sheet_cells(formats / "aigciqa2023" / "pic-index.xlsx")
    assert len(rows) == 2400
    for index, (model, name) in enumerate(rows):
        ours, prompt, repeat = aigciqa2023_place(index)
        assert (ours, f"{prompt}-{repeat}.png") == (model, name)
    table = list(csv.DictReader((formats / "aigciqa2023" / "all_set.woshidandan.csv").open()))
    rescaled = np.array([float(row["mosz1"]) for row in table])
    write_mat(tmp_path / "DATA" / "MOS" / "mosz1.mat", MOSz=rescaled[:, None])
    with pytest.raises(DataError, match="rescaled copy"):
        read_labels("aigciqa2023", tmp_path)
    write_mat(tmp_path / "DATA" / "MOS" / "mosz1.mat", MOSz=20 * rescaled[:, None])
    labels = read_labels("aigciqa2023", tmp_path)
    for image, row in zip(labels.images, table, strict=True):
        assert image.generator == row["model"]
        assert image.path.as_posix() == f"Image/{row['model']}/{row['image_name']}"
    assert len({image.content for image in labels.images}) == 100


@pytest.mark.parametrize(
    ("name", "images", "contents"),
    [("biq2021", 2700, 233), ("hecd", 176, 16), ("live_subset", 45, 4)],
)
def test_csv_lists(shared: Path, name: str, images: int, contents: int) -> None:
    path = shared / "data" / "iqa" / name / "scores.csv"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    dataset = read_csv_dataset(path)
    assert dataset.name == name
    assert (len(dataset), len(dataset.contents)) == (images, contents)
    assert dataset.splits == ("train", "val")
    assert dataset[0].path.parent == path.parent / "images"
    train, val = (set(dataset.where(split=part).contents) for part in dataset.splits)
    assert not train & val
