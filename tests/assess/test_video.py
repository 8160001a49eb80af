"""Quality over time, on videos and animations that the tests write themselves."""

from __future__ import annotations

import csv
import importlib.util
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from typer.testing import CliRunner

import qmamba.assess.video as video_module
from qmamba.assess import Scorer
from qmamba.assess.video import open_frames, score_video
from qmamba.assess.video.frames import Frame
from qmamba.assess.video.table import rows_of, write_table
from qmamba.cli import app
from qmamba.errors import ConfigError, ImageError

try:
    import av as _av

    FRAMES_STATE_TRANSFERS = hasattr(_av.VideoFrame, "color_trc")
except ImportError:
    FRAMES_STATE_TRANSFERS = False

needs_av = pytest.mark.skipif(
    importlib.util.find_spec("av") is None, reason="PyAV is not installed"
)


def picture(index: int, height: int = 64, width: int = 96) -> npt.NDArray[np.uint8]:
    """A gray level that tells the index, with the left half brighter."""
    image = np.full((height, width, 3), 20 + 4 * (index % 40), np.uint8)
    image[:, : width // 2] += 60
    return image


def video(path: Path, count: int = 40, rate: int = 10, **options: Any) -> Path:
    """Frame i is at i / rate seconds, or at ``times[i]``."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if "rotation" in options:
            stream.set_display_rotation(options["rotation"])
        if "transfer" in options:
            stream.codec_context.color_trc = options["transfer"]
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            times = options.get("times")
            frame.pts = round(1000 * (times[index] if times else index / rate))
            frame.time_base = Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def index_of(image: npt.NDArray[np.uint8]) -> int:
    return round((float(image.max(initial=0)) - 80) / 4)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.from_pretrained("qmamba-nano-biq2021")


@needs_av
def test_frames_are_spread_evenly(tmp_path: Path) -> None:
    source = open_frames(video(tmp_path / "clip.mp4"), count=4)
    assert source.duration == pytest.approx(4.0, abs=0.11)
    frames = list(source.frames)
    assert [frame.time for frame in frames] == pytest.approx([0.5, 1.5, 2.5, 3.5], abs=0.11)
    assert [index_of(frame.image) for frame in frames] == pytest.approx([5, 15, 25, 35], abs=1.5)
    assert not source.notes


@needs_av
def test_a_fixed_step_and_a_variable_rate(tmp_path: Path) -> None:
    frames = list(open_frames(video(tmp_path / "clip.mkv"), every=1.0).frames)
    assert [frame.time for frame in frames] == pytest.approx([0, 1, 2, 3], abs=0.11)
    times = [0.0, 0.1, 0.2, 3.0, 3.1, 9.0]
    path = video(tmp_path / "variable.mkv", count=6, times=times)
    frames = list(open_frames(path, every=2.0).frames)
    assert [frame.time for frame in frames] == pytest.approx([0.0, 3.0, 9.0], abs=0.05)


@needs_av
def test_long_gaps_are_jumped_over(tmp_path: Path) -> None:
    path = video(tmp_path / "long.mp4", count=60, rate=1)
    frames = list(open_frames(path, count=5).frames)
    assert [frame.time for frame in frames] == pytest.approx([6, 18, 30, 42, 54], abs=1.1)


@needs_av
@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotation_flags_turn_the_frame(tmp_path: Path, rotation: int) -> None:
    path = video(tmp_path / "turned.mp4", count=3, rotation=rotation)
    (frame,) = open_frames(path, count=1).frames
    expected = np.rot90(picture(1), rotation // 90)
    assert frame.image.shape == expected.shape
    assert np.abs(frame.image.astype(int) - expected.astype(int)).mean() < 12


@needs_av
def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    import av

    (tmp_path / "noise.mp4").write_bytes(b"no video at all" * 20)
    with pytest.raises(ImageError, match=r"'noise\.mp4' cannot be read"):
        open_frames(tmp_path / "noise.mp4")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    with pytest.raises(ImageError, match="no moving image, only sound"):
        open_frames(tmp_path / "sound.mkv")
    path = video(tmp_path / "clip.mp4", count=3)
    with pytest.raises(ImageError, match="96 x 64 pixels; at most 1,000"):
        open_frames(path, max_pixels=1000)
    with pytest.raises(ConfigError, match="count must be from 1"):
        open_frames(path, count=0)
    with pytest.raises(ConfigError, match="every must be a positive"):
        open_frames(path, every=float("nan"))


@pytest.mark.skipif(not FRAMES_STATE_TRANSFERS, reason="this PyAV does not tell what frames state")
@pytest.mark.parametrize("transfers", [(1, 16), (2, 18)])
def test_hdr_that_only_frames_state_is_refused(tmp_path: Path, transfers: tuple[int, int]) -> None:
    import av

    path = tmp_path / "broadcast.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for part, transfer in enumerate(transfers):
            encoder = av.CodecContext.create("mpeg2video", "w")
            encoder.width, encoder.height, encoder.pix_fmt = 96, 64, "yuv420p"
            encoder.time_base, encoder.framerate = Fraction(1, 10), Fraction(10)
            encoder.color_trc, encoder.max_b_frames = transfer, 0
            frames = [av.VideoFrame.from_ndarray(picture(i), format="rgb24") for i in range(20)]
            for index, frame in enumerate([*frames, None]):
                if frame is not None:
                    frame.pts, frame.time_base = 20 * part + index, Fraction(1, 10)
                for packet in encoder.encode(frame):
                    packet.stream = stream
                    container.mux(packet)
    source = open_frames(path, count=8)
    seen: list[Frame] = []
    with pytest.raises(ImageError, match=r"'broadcast\.ts' is HDR with the transfer"):
        seen.extend(source.frames)
    assert 1 <= len(seen) <= 4 and not source.notes
    result = CliRunner().invoke(app, ["score-video", str(path), "--count", "8"])
    assert result.exit_code == 1 and "is HDR with the transfer" in result.stderr


@needs_av
def test_hdr_is_refused(tmp_path: Path) -> None:
    path = video(tmp_path / "hdr.mkv", count=3, transfer=16)
    with pytest.raises(ImageError, match="HDR with the transfer PQ"):
        open_frames(path)


@needs_av
def test_a_damaged_file_keeps_what_came_before(tmp_path: Path) -> None:
    whole = video(tmp_path / "whole.mkv", count=200).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    source = open_frames(tmp_path / "cut.mkv", every=1.0)
    frames = list(source.frames)
    assert 5 < len(frames) < 15


def animation(path: Path, durations: list[int], **options: Any) -> Path:
    images = [Image.fromarray(picture(5 * i)) for i in range(len(durations))]
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=durations, loop=0, **options
    )
    return path


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "moving.png"])
def test_animations(tmp_path: Path, name: str) -> None:
    options = {"lossless": True} if name.endswith("webp") else {}
    path = animation(tmp_path / name, [100, 300, 100, 500], **options)
    source = open_frames(path, every=0.1)
    assert source.duration == pytest.approx(1.0)
    assert [frame.time for frame in source.frames] == pytest.approx([0.0, 0.1, 0.4, 0.5])
    frames = list(open_frames(path, count=2).frames)
    assert [frame.time for frame in frames] == pytest.approx([0.1, 0.5])
    assert frames[0].image.shape == (64, 96, 3)


def test_an_image_that_does_not_move(tmp_path: Path) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "still.png")
    with pytest.raises(ImageError, match="does not move; score it as an image"):
        open_frames(tmp_path / "still.png")


def test_pooling(tmp_path: Path, scorer: Scorer) -> None:
    path = animation(tmp_path / "moving.gif", [100] * 5)
    found = score_video(scorer, path, count=5)
    scores = [frame.score for frame in found.frames]
    assert len(scores) == 5 and found.score == pytest.approx(sum(scores) / 5)
    assert found.worst == min(scores)
    assert found.worst_times == (found.frames[scores.index(min(scores))].time,)
    assert found.temporal_spread == pytest.approx(np.std(scores), abs=1e-9)
    with Image.open(path) as image:
        image.seek(2)
        alone = float(scorer(np.asarray(image.convert("RGB"))))
    assert scores[2] == pytest.approx(alone, abs=1e-4)


def test_a_name_that_looks_like_a_formula_stays_a_name(tmp_path: Path, scorer: Scorer) -> None:
    found = score_video(scorer, animation(tmp_path / "moving.gif", [100, 100]))
    row = {**found.to_dict(), "video": "=1+1.gif"}
    write_table(tmp_path / "out.csv", [row])
    with (tmp_path / "out.csv").open() as stream:
        assert next(csv.DictReader(stream))["video"] == "'=1+1.gif"
    write_table(tmp_path / "out.jsonl", rows_of([found], frames=True))
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["time"] for line in lines] == [0.0, 0.1]


@needs_av
def test_the_command(tmp_path: Path) -> None:
    clip = video(tmp_path / "clip.mp4", count=10)
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    arguments = ["--model", "qmamba-nano", "-o", str(tmp_path / "table.csv"), "--count", "3"]
    arguments += ["--plot", str(tmp_path / "plot.png")]
    result = CliRunner().invoke(
        app,
        ["score-video", str(clip), str(tmp_path / "bad.mp4"), *arguments],
    )
    assert result.exit_code == 1, result.output
    assert "trained on no video ratings" in result.output and "bad.mp4" in result.output
    with (tmp_path / "table.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert row["frames"] == "3" and row["width"] == "96"
    assert Image.open(tmp_path / "plot.png").size[0] > 300
    result = CliRunner().invoke(app, ["score", str(clip), "--model", "qmamba-nano"])
    assert result.exit_code == 0 and "worst 5 %" in result.output
    result = CliRunner().invoke(app, ["score", str(clip), str(tmp_path / "still.png")])
    assert result.exit_code == 2
    result = CliRunner().invoke(app, ["score", str(clip), "--json"])
    assert result.exit_code == 2 and "has no --as-json" in result.output


def test_a_number_and_a_step_exclude_each_other(tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    path.touch()
    result = CliRunner().invoke(app, ["score-video", str(path), "--count", "3", "--every", "1"])
    assert result.exit_code == 2 and "--count or --every, not both" in result.stderr


def test_what_was_scored_before_a_signal_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    frames = [Image.fromarray(picture(index)) for index in range(3)]
    paths = [tmp_path / "first.gif", tmp_path / "second.gif"]
    for path in paths:
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    whole = video_module.score_video

    def stop_at_the_second(scorer: Scorer, path: Path, **options: Any) -> Any:
        if path == paths[1]:
            raise KeyboardInterrupt
        return whole(scorer, path, **options)

    monkeypatch.setattr(video_module, "score_video", stop_at_the_second)
    table = tmp_path / "videos.csv"
    arguments = [*map(str, paths), "-o", str(table), "--model", "qmamba-nano-biq2021"]
    result = CliRunner().invoke(app, ["score-video", *arguments, "--count", "1"])
    assert result.exit_code != 0
    lines = table.read_text().splitlines()
    assert len(lines) == 2 and "first.gif" in lines[1]


@needs_av
def test_frames_that_are_not_there_are_told(tmp_path: Path) -> None:
    whole = video(tmp_path / "whole.mkv")
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    source = open_frames(cut, count=2)
    assert [round(frame.time) for frame in source.frames] == [1]
    assert any(note.startswith(("ends after", "damaged after")) for note in source.notes)
    source = open_frames(whole, count=2)
    assert len(list(source.frames)) == 2 and not source.notes
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ImageError, match=r"cannot be read: [^\[]*Invalid data[^']*\.$"):
        open_frames(tmp_path / "text.mp4")
