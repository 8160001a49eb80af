"""Uploads and downloads through the real client against a stand-in of the hub."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from huggingface_hub import RepoCard, constants
from typer.testing import CliRunner

from qmamba.assess import Scorer
from qmamba.checkpoints import CardFigure, describe, load, model_card, publish, save_model
from qmamba.checkpoints.hub.download import HubId
from qmamba.cli import app
from qmamba.errors import CheckpointError, ConfigError
from qmamba.evaluation.quality.figures import Figure
from qmamba.evaluation.quality.report import DatasetRow, QualityReport
from qmamba.models import ModelMetadata
from qmamba.restore import Restorer
from tests.assess.samples import SCALE, pixels, save_tiny, tiny_model
from tests.checkpoints.hub_stand_in import Hub, running_hub

RESTORER = "mambair-nano-denoise-w4a4"


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What HF_ENDPOINT does for a process that starts with it."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with an empty cache beside it, for a user who is logged in."""
    with running_hub() as hub:
        monkeypatch.chdir(tmp_path)
        point_at(monkeypatch, hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        # Xet, the protocol for chunks of files, is closed; the hub offers plain uploads beside it.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights"))


@contextmanager
def heard_from_the_client() -> Iterator[list[str]]:
    """What the hub's client says on its own while the block runs."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("huggingface_hub")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def front_matter(card: str) -> dict[str, object]:
    return dict(RepoCard(card, ignore_metadata_errors=True).data.to_dict())


def test_a_file_comes_back_as_it_was_sent(hub: Hub, weights: Path) -> None:
    done = publish(weights, "someone/tiny", license="apache-2.0")
    files = hub.repositories["someone/tiny"].commits[done.commit or ""]
    assert set(files) == {"model.safetensors", "README.md"}
    assert files["model.safetensors"] == weights.read_bytes()
    assert files["README.md"].decode() == done.card
    assert done.sha256 == describe(weights).sha256 and done.size == weights.stat().st_size
    for name in ("someone/tiny", "someone/tiny@main", f"someone/tiny@{done.commit}"):
        model = load(name)
        assert model.metadata is not None
        assert model.metadata.sha256 == done.sha256
        assert model.metadata.source == f"someone/tiny@{done.commit}"
    scores = [Scorer.from_pretrained(name)(pixels()) for name in ("someone/tiny", str(weights))]
    assert scores[0] == scores[1]


def test_a_pinned_commit_stays(hub: Hub, weights: Path, tmp_path: Path) -> None:
    first = publish(weights, "someone/tiny").commit
    other = save_tiny(tmp_path, dataclasses.replace(SCALE, name="another scale"))
    second = publish(other, "someone/tiny").commit
    assert first != second
    for revision, name in ((first, "test MOS"), (second, "another scale"), (None, "another scale")):
        assert Scorer.from_pretrained("someone/tiny", revision=revision).scale.name == name
    with pytest.raises(ConfigError, match="names a revision and 'v2' is given beside it"):
        load(f"someone/tiny@{first}", revision="v2")


def test_what_the_hub_does_not_have(hub: Hub, weights: Path) -> None:
    publish(weights, "someone/tiny")
    for source, message in (
        ("someone/other", "no repository of that name on the hub"),
        ("someone/tiny@v9", "someone/tiny has no revision 'v9'; give a branch"),
        ("someone/tiny/other.safetensors", "has no file other.safetensors"),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            load(source)
        assert "\n" not in str(caught.value)


def test_no_pickle_is_taken_instead(hub: Hub) -> None:
    hub.add("someone/pickled", {"pytorch_model.bin": b"pickle", "config.json": b"{}"})
    with pytest.raises(CheckpointError, match=r"no file model.safetensors.*never taken"):
        load("someone/pickled")
    assert not any("pytorch_model" in path for _, path in hub.requests)


def test_damaged_downloads_are_refused(hub: Hub, weights: Path) -> None:
    hub.add("someone/tiny", {"model.safetensors": weights.read_bytes(), "other.st": b"tensors"})
    hub.damage_downloads = True
    for source in ("someone/tiny", "someone/tiny/other.st"):
        with pytest.raises(CheckpointError, match=r"is damaged: its checksum is .* try again"):
            load(source)


def test_damaged_uploads_are_noticed(hub: Hub, weights: Path) -> None:
    hub.damage_uploads = True
    with pytest.raises(CheckpointError, match=r"stored something else than .* do not use commit"):
        publish(weights, "someone/tiny")


def test_without_a_network_the_cache_serves(
    hub: Hub, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = publish(weights, "someone/tiny")
    load("someone/tiny")
    point_at(monkeypatch, "http://127.0.0.1:9")
    model = load("someone/tiny")
    assert model.metadata is not None
    assert model.metadata.source == f"someone/tiny@{done.commit}"
    with (
        heard_from_the_client() as lines,
        pytest.raises(CheckpointError, match="not in the cache and the hub cannot be reached"),
    ):
        load("someone/other")
    assert lines == []


def test_the_offline_switch_is_honored(
    hub: Hub, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(weights, "someone/tiny")
    load("someone/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    load("someone/tiny")
    with pytest.raises(CheckpointError, match="not in the cache and HF_HUB_OFFLINE is set"):
        load("someone/other")
    with pytest.raises(CheckpointError, match="Nothing was sent to someone/tiny"):
        publish(weights, "someone/tiny")
    assert len(hub.requests) == asked


def test_who_may_not_write_is_told_so(
    hub: Hub, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    with pytest.raises(CheckpointError, match=r"does not let you write .*status 401.*auth login"):
        publish(weights, "someone/tiny")


def test_a_readme_of_ones_own_stays(hub: Hub, weights: Path) -> None:
    hub.add("someone/tiny", {"README.md": b"# My own words\n"})
    done = publish(weights, "someone/tiny")
    files = hub.repositories["someone/tiny"].commits[done.commit or ""]
    assert done.kept_card and files["README.md"] == b"# My own words\n"
    again = publish(weights, "someone/fresh"), publish(weights, "someone/fresh", license="mit")
    files = hub.repositories["someone/fresh"].commits[again[1].commit or ""]
    assert not again[1].kept_card and b"license: mit" in files["README.md"]


def test_only_sound_files_of_ours_are_sent(hub: Hub, weights: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(weights.read_bytes()[:-10])
    foreign = tmp_path / "foreign.pth"
    torch.save({"x": torch.zeros(2)}, foreign)
    for path in (damaged, foreign):
        with pytest.raises(CheckpointError):
            publish(path, "someone/tiny")
    for name in ("tiny", "a/b/c", "some one/tiny", "someone/tiny@v1", "./tiny"):
        with pytest.raises(ConfigError, match="A repository of the hub is owner/name, got"):
            publish(weights, name)
    assert not hub.requests


def test_scorers_and_restorers_publish_themselves(hub: Hub, weights: Path) -> None:
    scorer = Scorer.from_pretrained(weights)
    done = scorer.push_to_hub("someone/tiny", private=True)
    assert hub.repositories["someone/tiny"].private
    assert Scorer.from_pretrained("someone/tiny")(pixels()).raw == scorer(pixels()).raw
    # The file was stored in float16, and so are its weights again.
    assert done.sha256 == scorer.metadata.sha256
    restorer = Restorer.from_pretrained(RESTORER)
    done = restorer.push_to_hub("someone/denoiser")
    assert done.sha256 == describe(RESTORER).sha256
    again = Restorer.from_pretrained("someone/denoiser").restore(pixels(24, 24))
    assert (again.layers.colors == restorer.restore(pixels(24, 24)).layers.colors).all()


def test_weights_keep_every_bit(hub: Hub) -> None:
    model = tiny_model()
    metadata = ModelMetadata(name="exact", score=SCALE)
    scorer = Scorer(model, metadata)
    scorer.push_to_hub("someone/exact")
    loaded = load("someone/exact")
    for key, value in model.state_dict().items():
        assert loaded.state_dict()[key].equal(value)


def test_a_dry_run_sends_nothing(hub: Hub, weights: Path) -> None:
    done = publish(weights, "someone/tiny", dry_run=True)
    assert done.commit is None and not hub.requests
    assert front_matter(done.card)["library_name"] == "qmamba"


def test_the_command(hub: Hub, weights: Path) -> None:
    runner = CliRunner()
    result = runner.invoke(app, ["push", str(weights), "someone/tiny", "--dry-run"])
    assert result.exit_code == 0 and result.stdout.startswith("---\n")
    assert "would send model.safetensors" in result.stderr and not hub.requests
    result = runner.invoke(app, ["push", str(weights), "someone/tiny"])
    assert result.exit_code == 0 and "use it as --model someone/tiny@" in result.stderr
    result = runner.invoke(app, ["push", str(weights), "tiny"])
    assert result.exit_code == 2 and "owner/name, got 'tiny'" in result.stderr


def test_a_report_gives_the_figures(weights: Path, tmp_path: Path) -> None:
    row = DatasetRow(
        dataset="KonIQ",
        part="test",
        split="official",
        split_seed=None,
        score_name="MOS",
        scale=(0, 100),
        higher_is_better=True,
        images=2015,
        contents=2015,
        fingerprint="0",
        policy="crops",
        figures={"srcc": Figure(0.81, 0.79, 0.83), "plcc": Figure(0.82), "rmse": Figure(9.0)},
    )
    report = QualityReport(
        "tiny", describe(weights).sha256 or "", "qmamba", 1, None, "fp32", (row,)
    )
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report.to_dict()))
    arguments = ["push", str(weights), "someone/tiny", "--dry-run", "--report", str(path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert "| SRCC | 0.810 (0.790 to 0.830) | KonIQ (test) | 2015 |" in result.stdout
    assert "| PLCC | 0.820 | KonIQ (test) | 2015 |" in result.stdout and "rmse" not in result.stdout
    path.write_text(json.dumps(dataclasses.replace(report, sha256="0" * 64).to_dict()))
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "is about other weights" in result.stderr


def test_the_card_tells_what_the_metadata_does() -> None:
    metadata = describe(RESTORER)
    card = model_card(metadata, "someone/denoiser", license="apache-2.0")
    fields = front_matter(card)
    assert fields["pipeline_tag"] == "image-to-image" and fields["license"] == "apache-2.0"
    figures = metadata.training["figures"]
    index = fields["model-index"]
    assert isinstance(index, list)
    (result,) = index[0]["results"]
    found = {entry["type"]: entry["value"] for entry in result["metrics"]}
    assert found == {key: round(value, 4) for key, value in figures.items()}
    assert "Removes noise" in card and str(metadata.sha256) in card


def test_the_card_says_how_a_network_was_quantized() -> None:
    record = {"bits": [4, 8], "method": "lsq+", "calibration": "16 crops of images"}
    metadata = ModelMetadata(
        name="small", architecture="mambair", training={"quantization": record}
    )
    card = model_card(metadata, "someone/small")
    assert "| bits of weights and activations | 4 and 8 |" in card
    assert "calibrated on | 16 crops of images |" in card
    assert "bits of weights" not in model_card(describe(RESTORER), "someone/denoiser")


def test_a_scorer_has_no_pipeline_tag_and_no_invented_license() -> None:
    metadata = ModelMetadata(name="plain", score=SCALE)
    card = model_card(metadata, "someone/plain")
    fields = front_matter(card)
    assert not {"pipeline_tag", "license", "model-index"} & set(fields)
    assert "does not state a license" in card and "does not say what it was trained on" in card
    figure = CardFigure("srcc", 0.81234, "KonIQ test", 2015, (0.79, 0.83))
    card = model_card(metadata, "someone/plain", figures=[figure])
    assert "| SRCC | 0.812 (0.790 to 0.830) | KonIQ test | 2015 |" in card
    with pytest.raises(ConfigError, match=r"identifier of the hub such as apache-2.0, got 'My'"):
        model_card(metadata, "someone/plain", license="My")


def test_metadata_reaches_the_page_as_text_alone() -> None:
    evil = '<script>alert(1)</script> [link](http://x) | `code` \x1b[31m\n# head --- "'
    metadata = ModelMetadata(
        name=evil,
        score=dataclasses.replace(SCALE, name=evil),
        policy={"name": evil},
        training={
            "data": evil,
            "terms": evil,
            "protocol": "from /home/me/private/run 7/a.safetensors and C:\\Users\\me\\x.pth",
            "figures": {"psnr": float("nan"), evil: 3.0},
        },
    )
    card = model_card(metadata, "someone/evil")
    assert front_matter(card)["library_name"] == "qmamba"
    body = card.split("---\n", 2)[2]
    for raw in ("<script", "[link](", "\x1b", "\n# head", "/home/me", "Users"):
        assert raw not in body
    assert "a.safetensors" in body and "x.pth" in body


def test_hub_ids() -> None:
    assert HubId.parse("a/b@v1/c/d.safetensors") == HubId("a", "b", "c/d.safetensors", "v1")
    assert str(HubId.parse("a/b@v1/c/d.safetensors")) == "a/b@v1/c/d.safetensors"
    assert str(HubId("a", "b")) == "a/b"
    for text in ("a", "a/b@", "/a/b", "./a", "a//b", "a/b@x/y/", "x" * 5000 + "/b"):
        assert HubId.parse(text) is None


def test_saved_files_name_their_source_with_the_commit(hub: Hub, tmp_path: Path) -> None:
    metadata = ModelMetadata(name="tiny", score=SCALE)
    save_model(tiny_model(), tmp_path / "a.safetensors", metadata=metadata, dtype=torch.float16)
    commit = hub.add("someone/x", {"sub/a.safetensors": (tmp_path / "a.safetensors").read_bytes()})
    model = load("someone/x/sub/a.safetensors")
    assert model.metadata is not None
    assert model.metadata.source == f"someone/x@{commit}/sub/a.safetensors"
    again = load(model.metadata.source)
    assert again.metadata is not None and again.metadata.sha256 == model.metadata.sha256
