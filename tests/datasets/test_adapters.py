"""The ten adapters on trees in the official layout with invented scores."""

from __future__ import annotations

import builtins
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmamba.datasets import find_datasets, list_datasets, read_dataset
from qmamba.datasets.adapter import FileFinder
from qmamba.datasets.authentic import read_flive_labels
from qmamba.datasets.registry import ADAPTERS
from qmamba.errors import ConfigError, DataError
from tests.datasets.trees import (
    build,
    cell_array,
    csiq_names,
    csiq_workbook,
    image_bytes,
    koniq_sets,
    scores_of,
    write_files,
    write_mat,
    write_text,
)

COMPLETE = ("live", "csiq", "tid2013", "livec", "agiqa3k", "aigciqa2023")


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("complete")
    for name in COMPLETE:
        build(name, root / "data" / name)
    return root


@pytest.mark.parametrize("name", COMPLETE)
def test_complete_trees(complete: Path, name: str) -> None:
    adapter = ADAPTERS[name]
    dataset = read_dataset(name, complete)
    assert len(dataset) == adapter.count
    assert len(dataset.contents) == (adapter.contents or adapter.count)
    assert dataset.scale == adapter.scale
    assert dataset.higher_is_better == (name not in ("live", "csiq"))
    assert dataset.score_name.endswith("DMOS" if name in ("live", "csiq") else " MOS")
    assert dataset.notes == ()
    assert all(image.path.is_file() for image in dataset)
    assert sorted(dataset.scores) == pytest.approx(sorted(scores_of(name)))


@pytest.mark.parametrize("name", sorted(set(ADAPTERS) - set(COMPLETE)))
def test_large_sets_with_few_images(tmp_path: Path, name: str) -> None:
    build(name, tmp_path, images=20)
    with pytest.raises(DataError, match=r"is not complete: .* listed in .* does not exist \(and"):
        read_dataset(name, tmp_path)
    dataset = read_dataset(name, tmp_path, allow_incomplete=True)
    assert len(dataset) == 20
    assert dataset.scores.tolist() == scores_of(name)[:20]
    assert dataset.higher_is_better
    assert dataset.notes[0].startswith("read although incomplete: ")


def test_live_leaves_out_the_references(complete: Path) -> None:
    dataset = read_dataset("live", complete / "data" / "live")
    assert dataset.labels is not None and dataset.labels.name == "dmos_realigned.mat"
    places = {"jp2k": 0, "jpeg": 227, "wn": 460, "gblur": 634, "fastfading": 808}
    for image in dataset:
        assert image.distortion is not None
        number = int(image.path.stem.removeprefix("img"))
        assert image.name == f"{image.distortion}/img{number}.bmp"
        assert image.content == f"scene{(places[image.distortion] + number - 1) % 29}"
    copies = 982 - len(dataset)
    assert copies == 203


def test_live_older_scores(complete: Path, tmp_path: Path) -> None:
    root = shutil.copytree(complete / "data" / "live", tmp_path / "live")
    (root / "dmos_realigned.mat").unlink()
    with pytest.raises(DataError, match=r"dmos_realigned\.mat' is missing"):
        read_dataset("live", root)
    from scipy.io import loadmat

    realigned = loadmat(complete / "data" / "live" / "dmos_realigned.mat")
    write_mat(root / "dmos.mat", dmos=realigned["dmos_new"] * 0.8, orgs=realigned["orgs"])
    dataset = read_dataset("live", root)
    assert "not realigned" in dataset.notes[0]
    assert dataset.scale == (dataset.scores.min(), dataset.scores.max())
    write_mat(root / "dmos.mat", dmos=realigned["dmos_new"], orgs=np.zeros((1, 982)))
    with pytest.raises(DataError, match="marks 0 reference copies where LIVE has 203"):
        read_dataset("live", root)
    (root / "refnames_all.mat").unlink()
    with pytest.raises(DataError, match=r"LIVE is not in .*'refnames_all.mat' or 'LIVE.txt'"):
        read_dataset("live", root)


def test_csiq_flat_folder_and_workbook(tmp_path: Path) -> None:
    build("csiq", tmp_path, images=0)
    names = csiq_names()
    write_files(tmp_path / "dst_imgs_all", names)
    listed = read_dataset("csiq", tmp_path)
    kinds = {"AWGN": "noise", "BLUR": "blur", "JPEG": "jpeg", "jpeg2000": "jpeg 2000"}
    rows = [
        (content, kinds.get(kind, kind), int(level), score)
        for (content, kind, level, _), score in zip(
            (name.split(".") for name in names), scores_of("csiq"), strict=True
        )
    ]
    (tmp_path / "csiq_label.txt").unlink()
    csiq_workbook(tmp_path, rows)
    dataset = read_dataset("csiq", tmp_path)
    assert dataset.labels is not None and dataset.labels.name == "csiq.DMOS.xlsx"
    assert dataset.images == listed.images
    assert dataset[0].path == tmp_path / "dst_imgs_all" / "1600.AWGN.1.png"
    assert (dataset[0].content, dataset[0].distortion, dataset[0].level) == ("1600", "awgn", 1)
    (tmp_path / "dst_imgs_all").rename(tmp_path / "dst_imgs")
    assert read_dataset("csiq", tmp_path)[0].path == tmp_path / "dst_imgs" / "1600.AWGN.1.png"


def test_csiq_alters(tmp_path: Path) -> None:
    build("csiq", tmp_path, images=0)
    write_text(tmp_path / "csiq_label.txt", ["1600.AWGN.1.png 0.1", "1600.SNOW.1.png 0.1"])
    with pytest.raises(DataError, match=r"line 2: 'snow' at level '1' is not damage of CSIQ"):
        read_dataset("csiq", tmp_path)
    write_text(tmp_path / "csiq_label.txt", ["1600.AWGN.png 0.1"])
    with pytest.raises(DataError, match=r"line 1: '1600.AWGN.png' is not <reference>"):
        read_dataset("csiq", tmp_path)
    csiq_workbook(tmp_path, [])
    (tmp_path / "csiq_label.txt").unlink()
    with pytest.raises(DataError, match="lists no images"):
        read_dataset("csiq", tmp_path)


def test_tid2013_finds_files_in_any_case(complete: Path) -> None:
    dataset = read_dataset("tid2013", complete / "data" / "tid2013")
    image = dataset[dataset.index("i25_24_5.bmp")]
    assert image.path.name == "I25_24_5.BMP"
    assert (image.content, image.distortion, image.level) == ("i25", "24", 5)
    assert all(name == name.lower() for name in dataset.names)


def test_kadid10k_is_higher_better_in_spite_of_its_column(tmp_path: Path) -> None:
    build("kadid10k", tmp_path, images=5)
    dataset = read_dataset("kadid10k", tmp_path, allow_incomplete=True)
    assert dataset.score_name == "KADID-10k MOS"
    image = dataset[4]
    assert (image.name, image.content, image.distortion, image.level) == (
        "I01_01_05.png",
        "I01",
        "01",
        5,
    )
    path = tmp_path / "dmos.csv"
    write_text(path, ["dist_img,ref_img,dmos,var", "I01_01_01.png,I02.png,4.5,0.1"])
    with pytest.raises(DataError, match=r"line 2: 'I01_01_01.png' is not .* of 'I02.png'"):
        read_dataset("kadid10k", tmp_path)
    write_text(path, ["dist_img,ref_img,score", "I01_01_01.png,I01.png,4.5"])
    with pytest.raises(DataError, match=r"has no column 'dmos'; its columns, .* 'score'"):
        read_dataset("kadid10k", tmp_path)


def test_livec_leaves_out_the_training_images(complete: Path, tmp_path: Path) -> None:
    root = complete / "data" / "livec"
    dataset = read_dataset("livec", root)
    assert not any(name.startswith("t") for name in dataset.names)
    assert dataset.names[0] == "3.bmp" and dataset.scores[0] == scores_of("livec")[0]
    data = shutil.copytree(root / "Data", tmp_path / "Data")
    names = list(dataset.names)
    write_mat(data / "AllImages_release.mat", AllImages_release=cell_array(names, (1162, 1)))
    with pytest.raises(DataError, match="holds 1162 texts where 1169 are expected"):
        read_dataset("livec", tmp_path)
    names += [f"t{number}.bmp" for number in range(1, 8)]
    write_mat(data / "AllImages_release.mat", AllImages_release=cell_array(names, (1169, 1)))
    with pytest.raises(DataError, match="are not the training images t1 to t7"):
        read_dataset("livec", tmp_path)
    write_mat(data / "AllMOS_release.mat", MOS=np.ones((1, 1169)))
    with pytest.raises(DataError, match="has no variable 'AllMOS_release'"):
        read_dataset("livec", tmp_path)
    (data / "AllMOS_release.mat").write_bytes(b"MATLAB 5.0 MAT-file, cut short")
    with pytest.raises(DataError, match="is not a readable MATLAB file"):
        read_dataset("livec", tmp_path)


def test_koniq10k_scales_and_parts(tmp_path: Path) -> None:
    build("koniq10k", tmp_path, images=3)
    dataset = read_dataset("koniq10k", tmp_path, allow_incomplete=True)
    assert dataset.splits == ()
    assert dataset.scores.tolist() == scores_of("koniq10k")[:3]
    koniq_sets(tmp_path)
    labels = ADAPTERS["koniq10k"].read_labels(tmp_path)
    parts = [image.split for image in labels.images]
    assert [parts.count(part) for part in ("train", "val", "test")] == [7058, 1000, 2015]
    assert labels.source.name == "koniq10k_scores_and_distributions.csv"
    (tmp_path / "koniq10k_scores_and_distributions.csv").unlink()
    assert ADAPTERS["koniq10k"].read_labels(tmp_path).images == labels.images
    sets = tmp_path / "koniq10k_distributions_sets.csv"
    sets.write_text(sets.read_text().replace(",validation", ",holdout"))
    with pytest.raises(DataError, match="line 7060: the set 'holdout' is none of training"):
        read_dataset("koniq10k", tmp_path)


def test_koniq10k_on_the_other_scale(tmp_path: Path) -> None:
    koniq_sets(tmp_path)
    sets = tmp_path / "koniq10k_distributions_sets.csv"
    lines = sets.read_text().splitlines()
    cells = [line.split(",") for line in lines[1:]]
    for row in cells:
        row[7] = str(1 + float(row[7]) / 25)
    write_text(sets, [lines[0], *map(",".join, cells)])
    with pytest.raises(DataError, match=r"run from 1\.15647 to 4\.53556 where those of KonIQ"):
        read_dataset("koniq10k", tmp_path)
    write_text(tmp_path / "koniq10k_scores_and_distributions.csv", ["image_name,MOS", "1.jpg,3.2"])
    with pytest.raises(DataError, match="has no column 'MOS_zscore'"):
        read_dataset("koniq10k", tmp_path)


def test_koniq10k_small_images(tmp_path: Path) -> None:
    build("koniq10k", tmp_path, images=3)
    (tmp_path / "1024x768").rename(tmp_path / "512x384")
    dataset = read_dataset("koniq10k", tmp_path, allow_incomplete=True)
    assert dataset[0].path.parent.name == "512x384"
    assert "512x384" in dataset.notes[0]


def test_flive_parts(tmp_path: Path) -> None:
    build("flive", tmp_path, images=0)
    labels = read_flive_labels(tmp_path)
    parts = [image.split for image in labels.images]
    assert parts.count("test") == 1827
    assert parts.count("val") == sum(number % 5 == 0 for number in range(1827, 39810))
    assert labels.images[-1].path == Path("database/EE371R/p39809.jpg")
    (tmp_path / "labels=640_padded.csv").rename(tmp_path / "labels<=640_padded.csv")
    (tmp_path / "labels640.csv").rename(tmp_path / "labels>640.csv")
    table = tmp_path / "labels_image.csv"
    lines = table.read_text().splitlines()
    write_text(table, [lines[0], *lines[1820:1840]])
    write_text(tmp_path / "labels>640.csv", ["name_image", "voc_emotic_ava/p1820.jpg"])
    write_text(tmp_path / "labels<=640_padded.csv", ["name_image,is_valid", "x/p1830.jpg,True"])
    parts = [image.split for image in read_flive_labels(tmp_path).images]
    assert [place for place, part in enumerate(parts) if part != "train"] == [1, 11]
    write_text(tmp_path / "labels>640.csv", ["name_image", "voc_emotic_ava/other.jpg"])
    with pytest.raises(DataError, match=r"'other.jpg' is in a test list beside"):
        read_dataset("flive", tmp_path)
    (tmp_path / "labels>640.csv").unlink()
    assert {image.split for image in read_flive_labels(tmp_path).images} == {None}


def test_spaq_damaged_workbook(tmp_path: Path) -> None:
    build("spaq", tmp_path, images=1)
    path = tmp_path / "Annotations" / "MOS and Image attribute scores.xlsx"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="is not a complete Excel workbook"):
        read_dataset("spaq", tmp_path)


def test_agiqa3k_prompts_and_images_folder(complete: Path, tmp_path: Path) -> None:
    dataset = read_dataset("agiqa3k", complete / "data" / "agiqa3k")
    image = dataset[dataset.index("sd1.5_lowcorr_017.jpg")]
    assert (image.content, image.generator) == ("017", "sd1.5_lowcorr")
    shutil.copy(complete / "data" / "agiqa3k" / "data.csv", tmp_path)
    write_files(tmp_path / "images", dataset.names)
    assert read_dataset("agiqa3k", tmp_path)[0].path == tmp_path / "images" / dataset.names[0]


def test_aigciqa2023_forms(complete: Path, tmp_path: Path) -> None:
    dataset = read_dataset("aigciqa2023", complete / "data" / "aigciqa2023")
    image = dataset[dataset.index("2399.png")]
    assert (image.content, image.generator) == ("099", "Unidiffuser")
    assert len(dataset.where(generator="stable-diffusion")) == 400
    assert len(dataset.where(contents=["042"])) == 24
    build("aigciqa2023", tmp_path, images=0)
    shutil.rmtree(tmp_path / "Image", ignore_errors=True)
    write_files(tmp_path / "Image" / "stable-diffusion", ["007-4.png"])
    other = read_dataset("aigciqa2023", tmp_path, allow_incomplete=True)
    assert other.names == ("1631.png",)
    assert other.scores[0] == dataset.scores[1631]
    write_mat(tmp_path / "DATA/MOS/mosz1.mat", MOSz=np.linspace(1.33, 3.61, 2400)[:, None])
    with pytest.raises(DataError, match=r"run from 1.33 to 3.61, which is a rescaled copy"):
        read_dataset("aigciqa2023", tmp_path)
    scores = np.full((2400, 1), 50.0)
    scores[6] = np.nan
    write_mat(tmp_path / "DATA/MOS/mosz1.mat", MOSz=scores)
    with pytest.raises(DataError, match="value 7 of 'MOSz'"):
        read_dataset("aigciqa2023", tmp_path)


def test_another_number_of_rows(complete: Path, tmp_path: Path) -> None:
    shutil.copytree(complete / "data" / "csiq", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "csiq_label.txt"
    lines = path.read_text().splitlines()
    write_text(path, lines[:-10])
    with pytest.raises(DataError, match="lists 856 images where CSIQ has 866"):
        read_dataset("csiq", tmp_path)
    assert len(read_dataset("csiq", tmp_path, allow_incomplete=True)) == 856
    write_text(path, [*lines, lines[3]])
    with pytest.raises(DataError, match=r"lists the image '1600.AWGN.4.png' 2 times"):
        read_dataset("csiq", tmp_path, allow_incomplete=True)
    write_text(path, [line.split()[0] + " " + str(float(line.split()[1]) * 9) for line in lines])
    with pytest.raises(DataError, match="run from 0 to 9 where those of CSIQ run from 0 to 1"):
        read_dataset("csiq", tmp_path, allow_incomplete=True)


def test_missing_images_and_folders(complete: Path, tmp_path: Path) -> None:
    shutil.copytree(complete / "data" / "live", tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "wn")
    with pytest.raises(DataError, match=r"wn' with \d+ images listed in .* does not exist; comp"):
        read_dataset("live", tmp_path)
    dataset = read_dataset("live", tmp_path, allow_incomplete=True)
    assert {image.distortion for image in dataset} == {"jp2k", "jpeg", "gblur", "fastfading"}
    for folder in ("jp2k", "jpeg", "gblur", "fastfading"):
        shutil.rmtree(tmp_path / folder)
    with pytest.raises(DataError, match="and 4 more, see `qmamba datasets check`"):
        read_dataset("live", tmp_path, allow_incomplete=True)


def test_missing_images_can_be_kept(complete: Path, tmp_path: Path) -> None:
    shutil.copytree(complete / "data" / "csiq", tmp_path, dirs_exist_ok=True)
    whole = read_dataset("csiq", tmp_path)
    whole[3].path.unlink()
    dataset = read_dataset("csiq", tmp_path, keep_missing=True)
    assert dataset.names == whole.names and not dataset.notes
    assert not dataset[3].path.exists() and dataset[3].path.name == whole[3].path.name
    shutil.rmtree(whole[0].path.parent)
    with pytest.raises(DataError, match=r"with \d+ images listed in .* does not exist"):
        read_dataset("csiq", tmp_path, keep_missing=True)


def test_without_scipy(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "scipy":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in ("live", "livec", "aigciqa2023"):
        with pytest.raises(DataError, match=r'needs SciPy; run pip install "qmamba\[train\]"'):
            read_dataset(name, complete)
    assert len(read_dataset("csiq", complete)) == 866


def test_finding(complete: Path, tmp_path: Path) -> None:
    found = find_datasets(complete)
    assert list(found) == [name for name in list_datasets() if name in COMPLETE]
    assert found["csiq"] == complete / "data" / "csiq"
    assert find_datasets(complete / "data" / "csiq") == {"csiq": complete / "data" / "csiq"}
    assert find_datasets(tmp_path) == {}
    deep = tmp_path / "a" / "b" / "c" / "d"
    build("tid2013", deep, images=0)
    assert find_datasets(tmp_path) == {}
    assert find_datasets(tmp_path / "a") == {"tid2013": deep}
    build("tid2013", tmp_path / "z", images=0)
    assert find_datasets(tmp_path) == {"tid2013": tmp_path / "z"}
    with pytest.raises(DataError, match="is not a folder"):
        find_datasets(tmp_path / "absent")
    with pytest.raises(DataError, match="is not a folder"):
        read_dataset("live", tmp_path / "absent")


def test_finding_follows_links_once(complete: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "data").symlink_to(complete / "data")
    (tmp_path / "links" / "loop").symlink_to(tmp_path / "links")
    assert find_datasets(tmp_path)["csiq"] == tmp_path / "links" / "data" / "csiq"


def test_tid2008_is_not_tid2013(tmp_path: Path) -> None:
    write_text(tmp_path / "old" / "mos_with_names.txt", ["5.9 I01_01_1.bmp", "4.8 i25_17_4.bmp"])
    assert find_datasets(tmp_path) == {}
    with pytest.raises(DataError, match="lists 2 images where TID2013 has 3000"):
        read_dataset("tid2013", tmp_path / "old")


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown data set 'koniq'; known are live, csiq"):
        read_dataset("koniq", tmp_path)


def test_registry_names() -> None:
    assert all(adapter.name == name for name, adapter in ADAPTERS.items())
    assert len(ADAPTERS) == 10


def test_file_finder(tmp_path: Path) -> None:
    write_files(
        tmp_path, ["Sub/a.png", "Sub/A.PNG", "Sub/Mixed.Png", "folder.png/x"], image_bytes()
    )
    finder = FileFinder(tmp_path)
    assert finder.find(Path("Sub/a.png")) == tmp_path / "Sub" / "a.png"
    assert finder.find(Path("Sub/A.PNG")) == tmp_path / "Sub" / "A.PNG"
    assert finder.find(Path("sub/mixed.png")) == tmp_path / "Sub" / "Mixed.Png"
    assert finder.find(Path("folder.png")) is None
    assert finder.find(Path("sub/absent.png")) is None
    assert finder.find(Path("nowhere/deep/a.png")) is None
    assert finder.find(Path("Sub/a.png/x")) is None
    assert finder.has_folder(Path("sub"))
    assert not finder.has_folder(Path("nowhere/deep"))
