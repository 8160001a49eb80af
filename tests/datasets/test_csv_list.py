from __future__ import annotations

from pathlib import Path

import pytest

from qmamba.datasets import official_split, read_csv_dataset
from qmamba.errors import DataError
from tests.datasets.trees import write_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_files(tmp_path, ["a.png", "b.png", "images/c.png", "sub/d.png", "images/sub/e.png"])
    return tmp_path


def table(folder: Path, text: str, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_smallest_list(folder: Path) -> None:
    dataset = read_csv_dataset(table(folder, "path,mos\na.png,1\nb.png,2.5\n"))
    assert dataset.name == "list"
    assert dataset.names == ("a.png", "b.png")
    assert [image.path for image in dataset] == [folder / "a.png", folder / "b.png"]
    assert dataset.scores.tolist() == [1.0, 2.5]
    assert dataset.scale == (1.0, 2.5)
    assert dataset.higher_is_better
    assert dataset.contents == ("a.png", "b.png")
    assert dataset.splits == ()


def test_all_columns_in_any_order_and_case(folder: Path) -> None:
    text = (
        " MOS , Image,content_ID,Split,distortion,level,generator,remark\n"
        '1, a.png ,one,train,blur,3,,"x, y"\n'
        "2,b.png,one,val,,,,\n"
        "3,c.png,,,,2.0,gan,\n"
    )
    dataset = read_csv_dataset(
        table(folder, text), name="mine", scale=(0, 10), higher_is_better=False
    )
    first, second, third = dataset
    assert (first.content, first.split, first.distortion, first.level) == (
        "one",
        "train",
        "blur",
        3,
    )
    assert (second.content, second.split, second.distortion) == ("one", "val", None)
    assert (third.content, third.split, third.level, third.generator) == ("c.png", None, 2, "gan")
    assert third.path == folder / "images" / "c.png"
    assert (dataset.name, dataset.scale, dataset.higher_is_better) == ("mine", (0, 10), False)
    assert dataset.score_name == "mine DMOS"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath,mos\na.png,1\nb.png,2\n",
        "path,mos\r\na.png,1\r\nb.png,2\r\n",
        "path , mos\n a.png , 1 \n b.png , 2 \n",
        '"path","mos"\n"a.png", "1"\n"b.png","2"\n',
        "\n\npath,mos\n\na.png,1\n,\n  \nb.png,2",
        "path,mos\n./a.png,1\nb.png,2e0\n",
    ],
)
def test_forms_of_the_same_list(folder: Path, text: str) -> None:
    dataset = read_csv_dataset(table(folder, text))
    assert dataset.names == ("a.png", "b.png")
    assert dataset.scores.tolist() == [1.0, 2.0]


def test_places_of_images(folder: Path) -> None:
    text = f"path,mos\nsub/d.png,1\nsub/e.png,2\nsub\\..\\a.png,3\n{folder / 'b.png'},4\n"
    dataset = read_csv_dataset(table(folder, text))
    assert [image.path for image in dataset][:2] == [
        folder / "sub" / "d.png",
        folder / "images" / "sub" / "e.png",
    ]
    assert dataset[2].name == "sub/../a.png" and dataset[2].path.is_file()
    assert dataset[3].path == folder / "b.png"


def test_name_from_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(folder / "birds", ["a.png", "b.png"])
    table(folder / "birds", "image,mos\na.png,1\nb.png,2\n", "scores.csv")
    monkeypatch.chdir(folder / "birds")
    assert read_csv_dataset("scores.csv").name == "birds"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; get it again"),
        ("\n \n", "is empty; get it again"),
        ("path,mos\n", "lists no images"),
        ("file,mos\na.png,1\n", "no column 'path' or 'image'; its columns, .* are 'file', 'mos'"),
        ("path,score\na.png,1\n", "no column 'mos'"),
        ("path;mos\na.png;1\n", r"no column 'path' or 'image'; its columns, separated by commas"),
        ("path,mos,MOS\na.png,1,1\n", "more than one column 'mos'"),
        ("path,mos\na.png,1\nb.png\n", "line 3: 1 cells where the header has 2"),
        ("path,mos\na.png,1\nb, c.png,2\n", "line 3: 3 cells .* commas in double quotes"),
        ("path,mos\na.png,1\nb.png,good\n", "line 3: the column 'mos' holds 'good'"),
        ("path,mos\na.png,1\nb.png,nan\n", "line 3: the column 'mos' holds 'nan'"),
        ("path,mos\na.png,1\nb.png,-inf\n", "line 3: the column 'mos' holds '-inf'"),
        ("path,mos\na.png,1\nb.png,\n", "line 3: the column 'mos' is empty"),
        ('path,mos\na.png,1\nb.png,"2,5"\n', "line 3: the column 'mos' holds '2,5'"),
        ("path,mos\na.png,1\n,2\n", "line 3: the column 'path' is empty"),
        ("path,mos\na.png,1\nb.png,2\na.png,3\n", "line 4: the image 'a.png' is listed in line 2"),
        ("path,mos\na.png,1\n./a.png,3\n", "line 3: the image 'a.png' is listed in line 2"),
        ("path,mos\nc.png,1\nimages/c.png,3\n", "line 3: .* is listed in line 2 already"),
        ("path,mos\ngone.png,1\ngone.png,3\n", "line 3: the image 'gone.png' is listed in line 2"),
        ("path,mos\na.png,3\nb.png,3.0\n", "Every score in .* is 3; at least two images"),
        ("path,mos\na.png,3\n", "Every score in .* is 3; at least two images"),
        ("path,mos,level\na.png,3,1.5\nb.png,2,1\n", "line 2: the level 1.5 is not a whole"),
        ("path,mos,split\na.png,3,trian\nb.png,2,\n", "line 2: the column 'split' holds 'trian'"),
        ("path,mos,split\na.png,3,\nb.png,2,Testing\n", "line 3: .*'Testing', which is none of"),
        ("path,mos\na.png,1\nb.png,1_0\n", "line 3: the column 'mos' holds '1_0'"),
        ("path,mos\na.png,1\ngone.png,2\n", "gone.png' is listed in 'list.csv' and does not exist"),
        ("path,mos\na.png,1\nsub,2\n", "sub' is listed in 'list.csv' and does not exist"),
        (f"path,mos\na.png,1\n{'x' * 5000},2\n", "is listed in 'list.csv' and does not exist"),
        (f'path,mos\na.png,1\n"{"x" * 200_000},2\n', "is not comma-separated text"),
    ],
)
def test_what_is_wrong(folder: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_csv_dataset(table(folder, text))


def test_missing_images_can_be_left_out(folder: Path) -> None:
    path = table(folder, "path,mos\na.png,1\ngone.png,9\nb.png,2\n")
    dataset = read_csv_dataset(path, allow_incomplete=True)
    assert dataset.names == ("a.png", "b.png")
    assert dataset.scale == (1.0, 9.0)
    assert "gone.png" in dataset.notes[0]
    path = table(folder, "path,mos\nx.png,1\ny.png,2\n")
    with pytest.raises(DataError, match=r"x.png' is listed .* \(and 1 more"):
        read_csv_dataset(path, allow_incomplete=True)


def test_missing_images_can_be_kept(folder: Path) -> None:
    path = table(folder, "path,mos\na.png,1\ngone.png,9\nb.png,2\n")
    dataset = read_csv_dataset(path, keep_missing=True)
    assert dataset.names == ("a.png", "gone.png", "b.png") and dataset.notes == ()
    assert dataset[1].path == folder / "gone.png"
    path = table(folder, "path,mos\nx.png,1\ny.png,2\n")
    with pytest.raises(DataError, match=r"x.png' is listed .* \(and 1 more"):
        read_csv_dataset(path, keep_missing=True)


def test_parts_in_any_letter_case(folder: Path) -> None:
    path = table(folder, "path,mos,split\na.png,1,Train\nb.png,2,TEST\nc.png,3,val\n")
    dataset = read_csv_dataset(path)
    assert dataset.splits == ("train", "test", "val")
    assert official_split(dataset).train == (0,)


def test_scores_outside_a_given_scale(folder: Path) -> None:
    path = table(folder, "path,mos\na.png,1\nb.png,7\n")
    with pytest.raises(DataError, match=r"'b.png' .* has the score 7 outside the scale 1 to 5"):
        read_csv_dataset(path, scale=(1, 5))


def test_unreadable_files(folder: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.csv' is missing"):
        read_csv_dataset(folder / "absent.csv")
    with pytest.raises(DataError, match="Cannot read the label file"):
        read_csv_dataset(folder / "sub")
    path = folder / "latin.csv"
    path.write_bytes("path,mos\nä.png,1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"is not UTF-8 text \(byte 9\)"):
        read_csv_dataset(path)
    path.write_bytes("path,mos\na.png,1\n".encode("utf-16"))
    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_csv_dataset(path)
