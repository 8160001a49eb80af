"""The page's routes, called directly: what they give, whom they refuse, and what they leave."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from typer.testing import CliRunner

from qmamba.assess import Scorer
from qmamba.cli import app as command
from qmamba.errors import ConfigError, DataError
from qmamba.restore import Restorer
from qmamba.web.server import Limits, Session
from qmamba.web.server.app import make_app
from qmamba.web.server.restorers import Restorers
from qmamba.web.server.run import serve
from qmamba.web.server.security import is_loopback, trusted_hosts
from qmamba.web.server.session import label
from tests.assess.samples import encoded, pixels, write_image
from tests.restore.stand_ins import save_networks
from tests.web.asgi import TOKEN, Answer, ask

LIMITS = Limits(image_bytes=100_000, total_bytes=400_000, images=6)


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture
def session(weights: Path, networks: dict[str, Path]) -> Iterator[Session]:
    scorer = Scorer.from_pretrained(weights, reasons=True)
    session = Session(scorer, Restorers([str(networks["sr"])]), LIMITS)
    yield session
    session.close()


@pytest.fixture
def page(session: Session) -> Starlette:
    return make_app(session, TOKEN)


def wait_for(happened: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it has not happened in time"
        time.sleep(0.01)


def finished(session: Session) -> bool:
    return all(item.state == "done" for item in session.items.values())


def upload(page: Starlette, name: str, content: bytes, **options: Any) -> Answer:
    options.setdefault("chunks", [content])
    return ask(page, "POST", "/api/images", headers={"x-name": name}, **options)


def images(page: Starlette) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(page, "GET", "/api/state").json()["images"]
    return found


def test_an_upload_gets_the_score_of_the_command(
    page: Starlette, session: Session, weights: Path
) -> None:
    content = encoded(seed=2)
    answer = upload(page, "a%20b.png", content, chunks=[content[:50], content[50:]])
    assert answer.status == 201
    wait_for(lambda: finished(session))
    (image,) = images(page)
    score = Scorer.from_pretrained(weights)(content)
    assert (image["name"], image["score"], image["raw"]) == ("a b.png", score.score, score.raw)
    assert image["spread"] == score.crop_spread and image["error"] is None
    reasons = Scorer.from_pretrained(weights, reasons=True)(content).reasons
    assert reasons is not None and image["reasons"] == reasons.sentence
    assert image["map"]["rows"] > 0 and len(image["regions"]) == 3
    address = f"/api/images/{image['id']}"
    thumb = ask(page, "GET", f"{address}/thumb")
    assert thumb.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(thumb.body)).size == (96, 80)
    full = ask(page, "GET", f"{address}/full")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(full.body))), pixels(seed=2))
    assert ask(page, "DELETE", address).status == 204
    assert images(page) == [] and ask(page, "GET", f"{address}/thumb").status == 404
    assert ask(page, "DELETE", address).status == 404


def test_a_folder_exports_the_bytes_of_the_command(
    page: Starlette,
    session: Session,
    photos: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert session.open_folder("photos") == 4
    wait_for(lambda: finished(session))
    for kind in ("csv", "jsonl"):
        parts = ["score", "photos", "-o", f"scores.{kind}", "--model", str(weights)]
        assert CliRunner().invoke(command, parts).exit_code == 1
        answer = ask(page, "GET", f"/api/export.{kind}")
        assert answer.body == (tmp_path / f"scores.{kind}").read_bytes()
        assert answer.headers["content-disposition"] == f'attachment; filename="scores.{kind}"'
    assert ask(page, "GET", "/api/export.exe").status == 404
    assert sorted(path.name for path in photos.iterdir()) == sorted(
        Path(image["name"]).name for image in images(page)
    )


def test_uploads_export_the_bytes_of_the_command(
    page: Starlette,
    session: Session,
    photos: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(photos)
    names = ["broken.png", "a.png"]
    for name in names:
        upload(page, name, (photos / name).read_bytes())
    wait_for(lambda: finished(session))
    output = str(tmp_path / "scores.csv")
    CliRunner().invoke(command, ["score", *names, "-o", output, "--model", str(weights)])
    assert ask(page, "GET", "/api/export.csv").body == Path(output).read_bytes()


def test_limits(page: Starlette, session: Session) -> None:
    content = encoded()
    declared = ask(page, "POST", "/api/images", headers={"content-length": "100001"})
    assert declared.status == 413
    # A body that does not say its length is stopped while it comes.
    streamed = upload(page, "a.png", b"", chunks=[b"x" * 60_000] * 3)
    assert streamed.status == 413 and "larger than 0.0954 MiB" in streamed.json()["error"]
    assert upload(page, "a.png", b"").status == 400
    assert upload(page, "a.png", b"", chunks=[content[:40]], hang_up=True).status == 400
    assert images(page) == [] and list(session._folder.iterdir()) == []
    for number in range(LIMITS.images):
        assert upload(page, f"{number}.png", content).status == 201
    refused = upload(page, "more.png", content)
    assert refused.status == 400 and "6 images" in refused.json()["error"]
    session.limits = Limits(total_bytes=1)
    assert "no room" in upload(page, "more.png", content).json()["error"]


def test_large_and_broken_images_get_a_reason(
    page: Starlette, session: Session, weights: Path
) -> None:
    session.scorer.max_pixels = 5000
    upload(page, "large.png", encoded(80, 96))
    upload(page, "broken.png", b"<svg onload='alert(1)'/>")
    wait_for(lambda: finished(session))
    large, broken = images(page)
    assert "5000" in large["error"].replace(",", "") and "upload" not in large["error"]
    assert broken["error"] and "thumb" not in broken
    answer = ask(page, "GET", f"/api/images/{broken['id']}/full")
    assert answer.status == 400 and answer.headers["content-type"] == "application/json"


def test_metadata_does_not_reach_the_page(page: Starlette, session: Session) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    stream = io.BytesIO()
    Image.fromarray(pixels()).save(stream, "JPEG", exif=exif, comment=b"a secret place")
    assert b"secret" in stream.getvalue()
    upload(page, "a.jpg", stream.getvalue())
    wait_for(lambda: finished(session))
    (image,) = images(page)
    for kind in ("thumb", "full"):
        assert b"secret" not in ask(page, "GET", f"/api/images/{image['id']}/{kind}").body


WRITES = [
    ("POST", "/api/images"),
    ("POST", "/api/images/x/mark"),
    ("POST", "/api/images/x/restore"),
    ("DELETE", "/api/images/x"),
    ("POST", "/api/queue"),
]
READS = ["/api/state", "/api/events", "/api/export.csv", "/api/images/x/thumb", "/static/page.js"]


def test_nothing_without_the_token(page: Starlette) -> None:
    cookie = {"cookie": f"qmamba-8765={TOKEN}"}
    for method, address in WRITES:
        for token in (None, "wrong", "\u00e9"):
            assert ask(page, method, address, token=token).status == 403
        # A foreign page can make a browser send the cookie, but no header.
        assert ask(page, method, address, token=None, headers=cookie).status == 403
        assert ask(page, method, address).status != 403
    for address in READS:
        assert ask(page, "GET", address, token=None).status == 403
        other_port = {"cookie": f"qmamba-9999={TOKEN}"}
        assert ask(page, "GET", address, token=None, headers=other_port).status == 403
    assert ask(page, "GET", "/api/state", token=None, headers=cookie).status == 200


def test_the_token_leaves_the_address(page: Starlette) -> None:
    assert ask(page, "GET", "/", token=None).status == 403
    assert ask(page, "GET", "/?token=wrong", token=None).status == 403
    answer = ask(page, "GET", f"/?token={TOKEN}", token=None)
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    shown = ask(page, "GET", "/", token=None, headers={"cookie": cookie.split(";")[0]})
    assert shown.status == 200 and f'content="{TOKEN}"'.encode() in shown.body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example"])
def test_foreign_names_of_this_machine_are_refused(page: Starlette, host: str) -> None:
    assert ask(page, "GET", "/api/state", host=host).status == 400
    assert ask(page, "POST", "/api/images", host=host).status == 400


def test_every_answer_has_the_headers(page: Starlette) -> None:
    for method, address, token in [
        ("GET", "/api/state", TOKEN),
        ("GET", "/", None),
        ("GET", "/static/style.css", TOKEN),
        ("POST", "/api/images", None),
        ("GET", "/gone", TOKEN),
    ]:
        headers = ask(page, method, address, token=token).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "http" not in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "address",
    [
        "/static/../server/app.py",
        "/static/..%2fserver%2fapp.py",
        "/static/%2e%2e/records.py",
        "/../../etc/passwd",
        "/api/images/..%2f..%2fetc%2fpasswd/thumb",
        "/api/images/%2fetc%2fpasswd/full",
        "/static/",
        "/static/page.html",
    ],
)
def test_no_route_takes_a_path(page: Starlette, address: str) -> None:
    assert ask(page, "GET", address).status == 404


def test_restoring(page: Starlette, session: Session, networks: dict[str, Path]) -> None:
    upload(page, "a.png", encoded(40, 48))
    wait_for(lambda: finished(session))
    (image,) = images(page)
    address = f"/api/images/{image['id']}"
    for wrong in ("r99", "../../weights.pth", "mambair-nano-x2-w4a4"):
        answer = ask(
            page, "POST", f"{address}/restore", chunks=[json.dumps({"choice": wrong}).encode()]
        )
        assert answer.status == 400
    state = ask(page, "GET", "/api/state").json()
    # Where the weights lie is nobody's business.
    assert str(networks["sr"].parent) not in json.dumps(state)
    choice = state["choices"][0]
    body = [json.dumps({"choice": choice["key"]}).encode()]
    assert ask(page, "POST", f"{address}/restore", chunks=body).status == 202
    wait_for(lambda: images(page)[0]["versions"] and "gain" in images(page)[0]["versions"][0])
    version = images(page)[0]["versions"][0]
    assert version["scale"] == choice["scale"] == 2
    gain = version["gain"]
    assert gain["difference"] == pytest.approx(gain["after"] - gain["before"], abs=1e-6)
    shown = ask(page, "GET", "/" + version["url"])
    assert Image.open(io.BytesIO(shown.body)).size == (96, 80)
    saved = ask(page, "GET", "/" + version["file"])
    assert saved.headers["content-disposition"] == 'attachment; filename="a.png"'
    assert saved.headers["content-type"] == "application/octet-stream"
    expected = Restorer.from_pretrained(session.restorers.choices[0].source).restore(
        encoded(40, 48)
    )
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(saved.body))), expected.pixels)
    assert ask(page, "GET", f"{address}/versions/r2/file").status == 404


def test_canceling_and_going_on(
    page: Starlette, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, begun = threading.Event(), threading.Event()
    score = Scorer.map

    def slow(self: Scorer, *arguments: Any, **options: Any) -> Any:
        begun.set()
        gate.wait(30)
        return score(self, *arguments, **options)

    monkeypatch.setattr(Scorer, "map", slow)
    for number in range(3):
        upload(page, f"{number}.png", encoded(seed=number))
    assert begun.wait(30)
    assert ask(page, "POST", "/api/queue", chunks=[b'{"action": "cancel"}']).status == 204
    gate.set()
    wait_for(lambda: session.items and next(iter(session.items.values())).state == "done")
    assert [image["state"] for image in images(page)] == ["done", "canceled", "canceled"]
    assert len(ask(page, "GET", "/api/export.csv").body.splitlines()) == 2
    assert ask(page, "POST", "/api/queue", chunks=[b'{"action": "resume"}']).status == 204
    wait_for(lambda: finished(session))
    assert [image["name"] for image in images(page)] == ["0.png", "1.png", "2.png"]
    for body in (b'{"action": "format"}', b"[]", b"{", b"x" * 5000):
        assert ask(page, "POST", "/api/queue", chunks=[body]).status == 400


def test_a_restoration_is_canceled(
    page: Starlette, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(page, "a.png", encoded(40, 48))
    wait_for(lambda: finished(session))
    begun = threading.Event()
    restore = Restorer.restore

    def slow(self: Restorer, image: Any, **options: Any) -> Any:
        begun.set()
        wait_for(options["cancel"])
        return restore(self, image, **options)

    monkeypatch.setattr(Restorer, "restore", slow)
    (image,) = images(page)
    address = f"/api/images/{image['id']}/restore"
    ask(page, "POST", address, chunks=[b'{"choice": "r1"}'])
    assert begun.wait(30) and images(page)[0]["making"]
    ask(page, "POST", "/api/queue", chunks=[b'{"action": "cancel"}'])
    wait_for(lambda: not images(page)[0]["making"])
    assert images(page)[0]["versions"] == []


def test_marks(page: Starlette, session: Session) -> None:
    upload(page, "a.png", encoded())
    wait_for(lambda: finished(session))
    address = f"/api/images/{images(page)[0]['id']}/mark"
    for mark in ("keep", "reject", None):
        answer = ask(page, "POST", address, chunks=[json.dumps({"mark": mark}).encode()])
        assert answer.json()["mark"] == mark == images(page)[0]["mark"]
    assert ask(page, "POST", address, chunks=[b'{"mark": "<b>"}']).status == 400


def test_every_listener_hears_of_every_change(page: Starlette, session: Session) -> None:
    heard: list[list[dict[str, Any]]] = [[], []]
    for one in heard:
        session.listeners.add(one.append)
    upload(page, "a.png", encoded())
    wait_for(lambda: finished(session) and heard[0] and heard[0][-1]["image"]["state"] == "done")
    states = [event["image"]["state"] for event in heard[0]]
    assert states == ["waiting", "scoring", "done"] and heard[0] == heard[1]
    session.remove(next(iter(session.items)))
    assert "removed" in heard[1][-1]


def test_closing_removes_everything(weights: Path, photos: Path) -> None:
    session = Session(Scorer.from_pretrained(weights))
    session.finish_upload(_written(session), "a.png")
    folder = session._folder
    session.close()
    session.close()
    assert not folder.exists() and not session._thread.is_alive()


def _written(session: Session) -> Path:
    path = session.begin_upload()
    path.write_bytes(encoded())
    return path


def test_folders_are_refused(session: Session, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No images found"):
        session.open_folder(str(tmp_path))
    for number in range(LIMITS.images + 1):
        write_image(tmp_path / f"{number}.png")
    with pytest.raises(DataError, match="7 images"):
        session.open_folder(str(tmp_path))


def test_names_are_labels() -> None:
    assert label("C:\\photos\\..\\a.png") == "a.png" and label("../../etc/passwd") == "passwd"
    assert label("") == "image" and len(label("x" * 1000)) == 200


def test_hosts(session: Session) -> None:
    assert trusted_hosts("127.0.0.1") == ["127.0.0.1", "localhost"]
    assert "photos.example" in trusted_hosts("0.0.0.0", ["photos.example"])
    assert is_loopback("localhost") and not is_loopback("0.0.0.0")
    with pytest.raises(ConfigError, match="Cannot serve at"):
        serve(session, host="203.0.113.1")


def test_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(command, ["serve", str(tmp_path / "gone")])
    assert result.exit_code == 2 and "There is no folder" in result.stderr
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = CliRunner().invoke(command, ["serve"])
    assert result.exit_code == 2 and "pip install 'qmamba[web]'" in result.stderr
