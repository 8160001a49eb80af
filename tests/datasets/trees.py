"""Data sets in their official layouts, with invented scores and one-pixel images."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from qmamba.datasets.registry import ADAPTERS
from qmamba.datasets.synthetic import CSIQ_TYPES, LIVE_FOLDERS

Cell = str | int | float | None

CONTENT_TYPES = (
    '<?xml version="1.0"?><Types'
    ' xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'
)


def image_bytes() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (1, 1), (90, 120, 60)).save(stream, "PNG")
    return stream.getvalue()


def write_files(root: Path, names: Sequence[str], content: bytes | None = None) -> None:
    content = image_bytes() if content is None else content
    for folder in {(root / name).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).write_bytes(content)


def write_text(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_mat(path: Path, **variables: object) -> None:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)


def cell_array(texts: Sequence[str], shape: tuple[int, int]) -> np.ndarray:
    cells = np.empty(len(texts), dtype=object)
    cells[:] = texts
    return cells.reshape(shape)


def write_workbook(path: Path, sheets: Mapping[str, Sequence[Sequence[Cell]]]) -> None:
    """An .xlsx file as Excel writes it: texts shared, numbers as numbers, no cell for None."""
    shared: dict[str, int] = {}

    def cells(line: int, row: Sequence[Cell]) -> Iterator[str]:
        for place, value in enumerate(row):
            reference = f"{chr(ord('A') + place)}{line}"
            if isinstance(value, str):
                number = shared.setdefault(value, len(shared))
                yield f'<c r="{reference}" t="s"><v>{number}</v></c>'
            elif value is not None:
                yield f'<c r="{reference}"><v>{value!r}</v></c>'

    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    parts = {"[Content_Types].xml": CONTENT_TYPES}
    for number, rows in enumerate(sheets.values(), 1):
        lines = (
            f'<row r="{line}">{"".join(cells(line, row))}</row>' for line, row in enumerate(rows, 1)
        )
        parts[f"xl/worksheets/sheet{number}.xml"] = (
            f'<worksheet xmlns="{main}"><sheetData>{"".join(lines)}</sheetData></worksheet>'
        )
    parts["xl/workbook.xml"] = (
        f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>'
        + "".join(
            f'<sheet name="{escape(name)}" sheetId="{number}" r:id="rId{number}"/>'
            for number, name in enumerate(sheets, 1)
        )
        + "</sheets></workbook>"
    )
    parts["xl/_rels/workbook.xml.rels"] = (
        f'<Relationships xmlns="{package}">'
        + "".join(
            f'<Relationship Id="rId{number}" Type="{office}/worksheet"'
            f' Target="worksheets/sheet{number}.xml"/>'
            for number in range(1, len(sheets) + 1)
        )
        + "</Relationships>"
    )
    parts["xl/sharedStrings.xml"] = (
        f'<sst xmlns="{main}">'
        + "".join(f"<si><t>{escape(text)}</t></si>" for text in shared)
        + "</sst>"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)


def scores_of(name: str) -> list[float]:
    """One score per image over the known range of the data set, in a fixed random order."""
    adapter = ADAPTERS[name]
    low, high = adapter.score_range or (38.0, 72.0)
    values = np.linspace(low, high, adapter.count).round(5)
    return [float(value) for value in np.random.default_rng(0).permutation(values)]


def _live(root: Path) -> list[str]:
    generator = np.random.default_rng(1)
    copies = np.zeros(982)
    copies[generator.permutation(982)[:203]] = 1
    scores = np.zeros(982)
    scores[copies == 0] = scores_of("live")
    references = [f"scene{place % 29}.bmp" for place in range(982)]
    write_mat(
        root / "dmos_realigned.mat",
        dmos_new=scores[None],
        dmos_std=np.ones((1, 982)),
        orgs=copies[None],
    )
    write_mat(root / "refnames_all.mat", refnames_all=cell_array(references, (1, 982)))
    return [f"{folder}/img{i}.bmp" for folder, count in LIVE_FOLDERS for i in range(1, count + 1)]


def csiq_names() -> list[str]:
    contents = ["1600", *(f"scene{i}" for i in range(1, 30))]
    names = [
        f"{content}.{spelling}.{level}.png"
        for spelling in CSIQ_TYPES.values()
        for content in contents
        for level in range(1, 6)
    ]
    contrast = [name for name in names if ".contrast." in name and name.endswith("5.png")]
    left_out = {
        *contrast,
        "scene1.contrast.4.png",
        *(f"scene{i}.contrast.1.png" for i in (2, 3, 4)),
    }
    return [name for name in names if name not in left_out]


def _csiq(root: Path) -> list[str]:
    names = csiq_names()
    pairs = zip(names, scores_of("csiq"), strict=True)
    write_text(root / "csiq_label.txt", [f"{name} {score}" for name, score in pairs])
    return [f"dst_imgs/{name.split('.')[1].lower()}/{name}" for name in names]


def csiq_workbook(root: Path, rows: Sequence[tuple[str, str, int, float]]) -> None:
    """`csiq.DMOS.xlsx`: three rows and columns of titles, the reference 1600 as a number."""
    lines: list[list[Cell]] = [[], [None, None, None, "CSIQ subjective ratings"], []]
    header = ("image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos")
    lines.append([None, None, None, *header])
    for content, kind, level, dmos in rows:
        image = int(content) if content.isdecimal() else content
        lines.append([None, None, None, image, 1, kind, level, 0.1, dmos])
    write_workbook(
        root / "csiq.DMOS.xlsx", {"readme": [["see the other sheets"]], "all_by_image": lines}
    )


def _tid2013(root: Path) -> list[str]:
    names = [
        f"{'I' if level == 1 and kind in (1, 11, 13) else 'i'}{content:02d}_{kind:02d}_{level}.bmp"
        for content in range(1, 26)
        for kind in range(1, 25)
        for level in range(1, 6)
    ]
    pairs = zip(scores_of("tid2013"), names, strict=True)
    write_text(root / "mos_with_names.txt", [f"{score} {name}" for score, name in pairs])
    on_disk = [name.swapcase() if "_24_" in name else name.lower() for name in names]
    return [f"distorted_images/{name}" for name in on_disk]


def _kadid10k(root: Path) -> list[str]:
    names = [
        f"I{content:02d}_{kind:02d}_{level:02d}.png"
        for content in range(1, 82)
        for kind in range(1, 26)
        for level in range(1, 6)
    ]
    lines = [
        f"{name},{name[:3]}.png,{score},0.5"
        for name, score in zip(names, scores_of("kadid10k"), strict=True)
    ]
    write_text(root / "dmos.csv", ["dist_img,ref_img,dmos,var", *lines])
    return [f"images/{name}" for name in names]


def _livec(root: Path) -> list[str]:
    names = [f"{number}.{'bmp' if number % 2 else 'JPG'}" for number in range(3, 1165)]
    training = [f"t{number}.bmp" for number in range(1, 8)]
    data = root / "Data"
    write_mat(
        data / "AllImages_release.mat", AllImages_release=cell_array(training + names, (1169, 1))
    )
    scores = np.array([*range(7), *scores_of("livec")])
    write_mat(data / "AllMOS_release.mat", AllMOS_release=scores[None])
    write_mat(data / "AllStdDev_release.mat", AllStdDev_release=np.ones((1, 1169)))
    return [f"Images/{name}" for name in names] + [f"Images/trainingImages/{t}" for t in training]


def koniq_names() -> list[str]:
    return [f"{10_000_000 + number}.jpg" for number in range(ADAPTERS["koniq10k"].count)]


def _koniq10k(root: Path) -> list[str]:
    names = koniq_names()
    lines = [
        f'"{name}",0,0,0,0,1,1,{1 + score / 25},0.5,{score}'
        for name, score in zip(names, scores_of("koniq10k"), strict=True)
    ]
    header = "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,MOS_zscore"
    write_text(root / "koniq10k_scores_and_distributions.csv", [header, *lines])
    return [f"1024x768/{name}" for name in names]


def koniq_sets(root: Path) -> None:
    parts = ["training"] * 7058 + ["validation"] * 1000 + ["test"] * 2015
    lines = [
        f"{name},0,0,0,0,1,1,{score},0.5,{part}"
        for name, score, part in zip(koniq_names(), scores_of("koniq10k"), parts, strict=True)
    ]
    header = "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set"
    write_text(root / "koniq10k_distributions_sets.csv", [header, *lines])


def _flive(root: Path) -> list[str]:
    folders = ["voc_emotic_ava"] * 38808 + ["blur_dataset"] * 999 + ["EE371R"] * 3
    names = [f"{folder}/p{number}.jpg" for number, folder in enumerate(folders)]
    pairs = zip(names, scores_of("flive"), strict=True)
    write_text(root / "labels_image.csv", ["name,mos", *(f"{n},{s}" for n, s in pairs)])
    test = [f"1,{name},2" for name in names[:1827]]
    write_text(root / "labels640.csv", ["mos_image,name_image,width_image", *test])
    padded = [f"images/p{i}.jpg,{i % 5 == 0}" for i in range(1827, 39810)]
    write_text(root / "labels=640_padded.csv", ["name_image,is_valid", *padded])
    return [f"database/{name}" for name in names]


def _spaq(root: Path) -> list[str]:
    names = [f"{number:05d}.jpg" for number in range(1, 11126)]
    header = ("Image name", "MOS", "Brightness")
    rows = [(name, score, 50) for name, score in zip(names, scores_of("spaq"), strict=True)]
    path = root / "Annotations" / "MOS and Image attribute scores.xlsx"
    write_workbook(path, {"Sheet1": [header, *rows]})
    return [f"TestImage/{name}" for name in names]


def _agiqa3k(root: Path) -> list[str]:
    names = [
        f"{model}_{prompt:03d}.jpg"
        for model in (
            "AttnGAN_normal",
            "sd1.5_lowcorr",
            "xl2.2_normal",
            *(f"m{i}_n" for i in range(7)),
        )
        for prompt in range(300 if model != "m6_n" else 282)
    ]
    lines = [
        f'{name},"a prompt, with a comma",,,,{score},0.1,1.0,0.1'
        for name, score in zip(names, scores_of("agiqa3k"), strict=True)
    ]
    header = "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align"
    write_text(root / "data.csv", [header, *lines])
    return names


def _aigciqa2023(root: Path) -> list[str]:
    scores = np.array(scores_of("aigciqa2023"))
    for number in (1, 2, 3):
        write_mat(root / f"DATA/MOS/mosz{number}.mat", MOSz=scores[:, None] + number - 1)
    return [f"Image/allimg/{index}.png" for index in range(2400)]


_TREES: Mapping[str, Callable[[Path], list[str]]] = {
    "live": _live,
    "csiq": _csiq,
    "tid2013": _tid2013,
    "kadid10k": _kadid10k,
    "livec": _livec,
    "koniq10k": _koniq10k,
    "flive": _flive,
    "spaq": _spaq,
    "agiqa3k": _agiqa3k,
    "aigciqa2023": _aigciqa2023,
}


def build(name: str, root: Path, images: int | None = None) -> Path:
    """Write the label files of a data set and its first `images` images, all if None."""
    root.mkdir(parents=True, exist_ok=True)
    write_files(root, _TREES[name](root)[:images])
    return root
