"""The report and the contact sheet, without a browser."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from qmamba.assess import ImageRow, Scorer, score_paths
from qmamba.cli import app
from qmamba.errors import DataError
from qmamba.web import bundle
from qmamba.web.records import map_record, printable, read_rows, score_record
from qmamba.web.sheet import best_and_worst, draw_sheet
from tests.assess.samples import pixels, write_image

Run = Callable[..., Result]


@pytest.fixture
def run(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> Result:
        more = ["--model", str(weights)] if arguments[0] == "score" else []
        return CliRunner().invoke(app, [*arguments, *more])

    return command


def data_of(report: Path) -> dict[str, object]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', report.read_text()
    )
    assert found is not None
    content: dict[str, object] = json.loads(found[1])
    return content


def test_report(run: Run, photos: Path, weights: Path, tmp_path: Path) -> None:
    assert run("score", "photos", "-o", "scores.csv").exit_code == 1
    result = run(
        "report", "scores.csv", "-o", "report.html", "--title", "</script>", "--model", str(weights)
    )
    assert result.exit_code == 0, result.output
    assert "4 images, 3 with a thumbnail, 3 with a quality map" in result.stderr
    data = data_of(tmp_path / "report.html")
    images = {image["name"]: image for image in data["images"]}  # type: ignore[attr-defined]
    rows = list(score_paths(Scorer.from_pretrained(weights), sorted(map(str, photos.iterdir()))))
    for row in rows:
        image = images[f"photos/{Path(row.image).name}"]
        if row.score is None:
            assert image["error"] == row.error and "score" not in image
            continue
        assert (image["score"], image["raw"]) == (row.score.score, row.score.raw)
        assert (tmp_path / unquote(image["link"])).samefile(row.image)
        kind, content = image["thumb"].split(",")
        assert kind == "data:image/webp;base64"
        assert Image.open(io.BytesIO(base64.b64decode(content))).size == (96, 80)
        assert len(image["regions"]) == 3
        assert image["reasons"].endswith(".")
    text = (tmp_path / "report.html").read_text()
    assert text.count("</script>") == 2 and "<!--" not in text
    # Nothing is loaded from anywhere: addresses occur in names of XML only.
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text and "connect-src" not in text


def test_maps_belong_to_the_scores(run: Run, photos: Path, weights: Path, tmp_path: Path) -> None:
    run("score", "photos", "-o", "scores.jsonl")
    write_image(photos / "a.png", seed=9)
    (photos / "c&'\"#%.png").unlink()
    result = run("report", "scores.jsonl", "-o", "report.html", "--model", str(weights))
    assert "no quality map for 2 images, which have changed or gone" in result.stderr
    assert "2 with a thumbnail, 1 with a quality map" in result.stderr
    result = run("report", "scores.jsonl", "-o", "report.html", "--force")
    assert result.exit_code == 0 and "no quality maps: " in result.stderr
    result = run("report", "scores.jsonl", "-o", "r.html", "--model", "qmamba-nano-biq2021")
    assert result.exit_code == 2 and "are others than the table's" in result.stderr
    assert run("report", "scores.jsonl", "-o", "r.html", "--regions", "0").exit_code == 0


def test_images_beside_the_table(run: Run, photos: Path, tmp_path: Path) -> None:
    run("score", "photos", "-o", "scores.csv")
    (tmp_path / "moved").mkdir()
    (tmp_path / "scores.csv").rename(tmp_path / "moved" / "scores.csv")
    photos.rename(tmp_path / "moved" / "photos")
    result = run("report", "moved/scores.csv", "-o", "report.html", "--regions", "0")
    assert "3 with a thumbnail" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone.csv", "-o", "r.html"), "Cannot read 'gone.csv'"),
        (("photos/a.png", "-o", "r.html"), "must end in .csv or .jsonl"),
        (("scores.csv",), "Give -o REPORT.html"),
        (("scores.csv", "-o", "r.txt"), "must end in .html"),
        (("scores.csv", "--sheet", "s.gif"), "must end in .jpg"),
        (("other.csv", "-o", "r.html"), "has no column image, score, raw"),
        (("torn.jsonl", "-o", "r.html"), "Row 2 of 'torn.jsonl' is no row"),
        (("failed.csv", "-o", "r.html"), "No image of the table has a score"),
    ],
)
def test_wrong_usage(
    run: Run, photos: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    run("score", "photos", "-o", "scores.csv")
    run("score", "photos", "-o", "torn.jsonl")
    run("score", "photos/broken.png", "-o", "failed.csv")
    (tmp_path / "other.csv").write_text("path,mos\na,1\n")
    lines = (tmp_path / "torn.jsonl").read_text().splitlines()
    (tmp_path / "torn.jsonl").write_text(f"{lines[0]}\n{lines[1][:20]}\n")
    result = run("report", *arguments)
    assert result.exit_code == 2 and message in result.stderr, result.output


def test_rows_are_read_as_they_were_written(run: Run, photos: Path, weights: Path) -> None:
    scorer = Scorer.from_pretrained(weights)
    names = ["photos/a.png", "photos/broken.png", "photos/c&'\"#%.png"]
    for kind in ("csv", "jsonl"):
        run("score", *names, "-o", f"scores.{kind}")
        rows = read_rows(f"scores.{kind}")
        assert [row.to_dict() for row in rows] == [
            row.to_dict() for row in score_paths(scorer, names)
        ]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_reasons_of_a_table(run: Run, photos: Path, tmp_path: Path, kind: str) -> None:
    run("score", "photos", "--reasons", "-o", f"scores.{kind}")
    rows = read_rows(f"scores.{kind}")
    said = {
        row.image: row.score.reasons.sentence for row in rows if row.score and row.score.reasons
    }
    assert len(said) == 3
    assert run("report", f"scores.{kind}", "-o", "report.html", "--regions", "0").exit_code == 0
    images = data_of(tmp_path / "report.html")["images"]
    assert {i["name"]: i["reasons"] for i in images if "score" in i} == {  # type: ignore[attr-defined]
        printable(name): sentence for name, sentence in said.items()
    }


def test_hostile_tables(tmp_path: Path) -> None:
    head = "image,score,raw,scale_low,scale_high,higher_is_better,width,height\n"
    for line in ("a,nan,1,0,1,true,1,1", "a,1,1,1,0,true,1,1", "a,1,1,0,1,true,x,1"):
        (tmp_path / "t.csv").write_text(f"{head}{line}\n")
        with pytest.raises(DataError, match="Row 1"):
            read_rows(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        read_rows(tmp_path / "t.csv")
    assert printable("a\x1b[31m\n\udcff\u202e") == "a?[31m???"


def test_a_record_of_a_map(weights: Path) -> None:
    quality = Scorer.from_pretrained(weights).map(pixels(), max_side=40)
    record = map_record(quality)
    values = np.frombuffer(base64.b64decode(record["values"]), "<f4")
    np.testing.assert_array_equal(values.reshape(record["rows"], record["columns"]), quality.values)
    shown = score_record(ImageRow("a", score=quality.score), quality)
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown


def test_contact_sheet(weights: Path, photos: Path, tmp_path: Path) -> None:
    rows = list(score_paths(Scorer.from_pretrained(weights), sorted(map(str, photos.iterdir()))))
    (one,) = best_and_worst(rows, 2)
    scores = [float(tile.caption[0].split()[1]) for tile in one.tiles]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    best, worst = best_and_worst(rows, 1)
    assert best.tiles == one.tiles[:1] and worst.tiles == one.tiles[-1:]
    Path(one.tiles[1].images[0]).unlink()
    assert draw_sheet([one], "a footer that is far too long " * 20).width <= 1280


def test_no_two_modules_have_a_name_in_common() -> None:
    # The report holds them all in one module.
    names = Counter(
        name
        for module in (*bundle.MODULES, "report.js")
        for name in re.findall(
            r"^(?:export )?(?:async )?(?:function|class|const|let) (\w+)",
            bundle.asset(module),
            re.MULTILINE,
        )
    )
    assert len(names) > 20 and names.most_common(1)[0][1] == 1


def test_modules_come_after_what_they_import() -> None:
    for order in ((*bundle.MODULES, *bundle.LIVE_MODULES), (*bundle.MODULES, "report.js")):
        for place, module in enumerate(order):
            for other in re.findall(r'from "\./([\w.]+)"', bundle.asset(module)):
                assert other in order[:place]


def test_nothing_parses_html_and_nothing_is_loaded_from_elsewhere() -> None:
    for module in (*bundle.MODULES, *bundle.LIVE_MODULES, "report.js", "page.html", "style.css"):
        text = bundle.asset(module)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        assert "//" not in re.sub(r"^\s*//.*$|http://www\.w3\.org", "", text, flags=re.MULTILINE)
