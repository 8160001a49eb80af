"""Frames of videos (through PyAV) and of animated images (through Pillow), sampled over time.

One frame is held at a time. Sound is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qmamba.errors import ConfigError, ImageError, QMambaError
from qmamba.images import DEFAULT_MAX_PIXELS

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4"}
    | {".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"}
)
"""Endings of files that are taken for videos."""
ANIMATION_SUFFIXES = frozenset((".gif", ".webp", ".avif", ".png", ".apng"))
"""Endings of images that may move."""

DEFAULT_COUNT = 32
"""Frames that are looked at where nothing else is asked for."""
MOST_FRAMES = 3600
"""No more frames are looked at, so a file without end comes to one."""
_MOST_DECODED = 1_000_000
# Where the frames wanted are further apart than this, decoding all between them is slower than
# going to each.
_SEEK_SECONDS = 5.0
_UNKNOWN_STEP = 1.0
_HDR = {16: "PQ (SMPTE ST 2084)", 18: "HLG (ARIB STD-B67)"}
_DEFAULT_DURATION = 0.1
_MILLISECOND = 1e-3
_CLOSE = 1e-4
_WHOLE_SHARE = 0.9


class Frame(NamedTuple):
    """One frame."""

    time: float
    """Seconds from the beginning."""
    image: npt.NDArray[np.uint8]
    """``(height, width, 3)``, upright sRGB."""


@dataclass
class FrameSource:
    """An opened file whose sampled frames can be walked through once."""

    width: int
    """Of an upright frame."""
    height: int
    duration: float | None
    """Seconds; None where the file does not say."""
    notes: list[str]
    """What was met on the way; grows while the frames are read."""
    frames: Iterator[Frame]


def open_frames(
    path: str | Path,
    *,
    count: int = DEFAULT_COUNT,
    every: float | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> FrameSource:
    """Open a video or an animated image.

    Args:
        path: the file.
        count: frames, evenly over the whole time, each in the middle of its share.
        every: seconds between two frames instead, from the first on; at most
            :data:`MOST_FRAMES` of them.
        max_pixels: width x height that is refused beyond.

    Returns:
        The frames in their order. A file that breaks in the middle ends there with a note; a frame
        that states HDR raises as the file would.

    Raises:
        ConfigError: ``count`` or ``every`` is not possible.
        ImageError: the file cannot be read, holds no moving image, is too large, or is HDR.
        QMambaError: PyAV is not installed and the file needs it.
    """
    if not 1 <= count <= MOST_FRAMES:
        raise ConfigError(f"The count must be from 1 to {MOST_FRAMES}, got {count}.")
    if every is not None and not every > 0:
        raise ConfigError(f"The option every must be a positive number of seconds, got {every:g}.")
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"The video {str(path)!r} is not a file; check the name.")
    if path.suffix.lower() in ANIMATION_SUFFIXES:
        return _open_animation(path, count, every, max_pixels)
    return _open_video(path, count, every, max_pixels)


def _check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1 or width * height > max_pixels:
        raise ImageError(
            f"The video {path.name!r} has frames of {width} x {height} pixels; at most "
            f"{max_pixels:,} are read (--max-pixels)."
        )


class _Picker:
    """Which frames are taken: those that are shown at the wanted times, or the next ones."""

    def __init__(self, count: int, every: float | None, duration: float | None) -> None:
        self._every = every
        if every is None and duration:
            self._every, self._next = None, duration / count / 2
            self._share: float = duration / count
            self._left = count
        else:
            self._every = every or _UNKNOWN_STEP
            self._share, self._next, self._left = self._every, 0.0, MOST_FRAMES

    @property
    def step(self) -> float:
        """Seconds between two frames."""
        return self._share

    @property
    def wanted(self) -> float | None:
        """The time of the next frame; None where there is none."""
        return self._next if self._left > 0 else None

    def takes(self, time: float, length: float = 0.0) -> bool:
        """Whether a frame that starts at a time and stays for a while is taken."""
        is_shown = time >= self._next - _CLOSE or time + length > self._next + _CLOSE
        if self.wanted is None or not is_shown:
            return False
        self._left -= 1
        self._next += self._share
        # A frame that stays for longer than a share stands for all of them.
        while self._next < time + length and self._left > 0 and self._every is None:
            self._left -= 1
            self._next += self._share
        return True


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise QMambaError(
            f'Videos need PyAV ({error}); run pip install "qmamba[video]".'
        ) from error
    return av


def _open_video(path: Path, count: int, every: float | None, max_pixels: int) -> FrameSource:
    av = _av()
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ImageError(f"The video {path.name!r} cannot be read: {_reason(error)}.") from error
    try:
        if not container.streams.video:
            raise ImageError(f"The file {path.name!r} holds no moving image, only sound or data.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        context = stream.codec_context
        _check_size(path, context.width, context.height, max_pixels)
        _refuse_hdr(context, path.name)
    except BaseException:
        container.close()
        raise
    duration = _duration(container, stream)
    first = float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0
    source = FrameSource(context.width, context.height, duration, [], iter(()))
    picker = _Picker(count, every, duration)
    source.frames = _video_frames(
        av, container, stream, first, picker, source, max_pixels, path.name
    )
    return source


def _refuse_hdr(stated: Any, name: str) -> None:
    """Refuse a stream or a frame that states a transfer of HDR."""
    transfer = _HDR.get(int(getattr(stated, "color_trc", 0) or 0))
    if transfer is not None:
        raise ImageError(
            f"The video {name!r} is HDR with the transfer {transfer}, for which scores mean "
            "nothing; convert it to SDR first."
        )


def _duration(container: Any, stream: Any) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        found = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        found = container.duration / 1e6
    else:
        return None
    return found if 0 < found < 1e7 else None


def _video_frames(
    av: Any,
    container: Any,
    stream: Any,
    first: float,
    picker: _Picker,
    source: FrameSource,
    max_pixels: int,
    name: str,
) -> Iterator[Frame]:
    last, decoded = 0.0, 0
    seeks = picker.step > _SEEK_SECONDS and source.duration is not None
    try:
        frames = container.decode(stream)
        while picker.wanted is not None:
            if seeks and picker.wanted > last + _SEEK_SECONDS:
                container.seek(int((first + picker.wanted) / stream.time_base), stream=stream)
                frames = container.decode(stream)
            for frame in frames:
                decoded += 1
                last = max(last, (frame.time or 0.0) - first) if frame.time is not None else last
                length = float((frame.duration or 0) * (frame.time_base or 0))
                if picker.takes(last, length):
                    if frame.width * frame.height > max_pixels:
                        source.notes.append(f"stopped at {last:.2f} s, where frames grow too large")
                        return
                    # A container may say nothing, and a broadcast changes in the middle.
                    _refuse_hdr(frame, name)
                    image = _upright(frame)
                    source.height, source.width = image.shape[:2]
                    yield Frame(last, image)
                    break
                if decoded >= _MOST_DECODED:
                    source.notes.append(f"stopped after {decoded} frames")
                    return
            else:
                if _ends_early(last, picker.wanted, source.duration):
                    source.notes.append(f"ends after {last:.2f} s of {source.duration:.2f} s")
                return
        if source.duration is None or last < source.duration - 2 * picker.step:
            source.notes.append(f"only the first {last:.0f} s were looked at")
    except ImageError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        source.notes.append(f"damaged after {last:.2f} s ({_reason(error)})")
    finally:
        container.close()


def _ends_early(last: float, wanted: float, duration: float | None) -> bool:
    """Whether frames that were to come are not there; the last one may stay for a while."""
    return duration is not None and last < wanted < duration and last < _WHOLE_SHARE * duration


def _upright(frame: Any) -> npt.NDArray[np.uint8]:
    image: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    # Degrees counterclockwise by which the frame is to be turned for display.
    turns = round(float(getattr(frame, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns))


def _open_animation(path: Path, count: int, every: float | None, max_pixels: int) -> FrameSource:
    from PIL import Image

    try:
        image = Image.open(path)
        frames = int(getattr(image, "n_frames", 1))
        _check_size(path, image.width, image.height, max_pixels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"The image {path.name!r} cannot be read: {_reason(error)}.") from error
    if frames < 2:
        raise ImageError(f"The image {path.name!r} does not move; score it as an image.")
    # The durations stand beside the frames, so a first pass goes through all of them.
    lengths, notes = _lengths(image, frames)
    if not lengths:
        raise ImageError(f"The image {path.name!r} has no frame that can be read.")
    duration = sum(lengths)
    source = FrameSource(image.width, image.height, duration, notes, iter(()))
    source.frames = _animation_frames(image, lengths, _Picker(count, every, duration), notes)
    return source


def _lengths(image: Any, frames: int) -> tuple[list[float], list[str]]:
    lengths: list[float] = []
    try:
        for index in range(min(frames, _MOST_DECODED)):
            image.seek(index)
            # Decoders tell the length of a frame when they have read it.
            image.load()
            length = float(image.info.get("duration", 0) or 0) * _MILLISECOND
            lengths.append(length if length > 0 else _DEFAULT_DURATION)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        return lengths, [f"damaged after {sum(lengths):.2f} s ({_reason(error)})"]
    return lengths, []


def _animation_frames(
    image: Any, lengths: list[float], picker: _Picker, notes: list[str]
) -> Iterator[Frame]:
    time = 0.0
    with image:
        for index, length in enumerate(lengths):
            if picker.takes(time, length):
                image.seek(index)
                rgba = np.asarray(image.convert("RGBA"), dtype=np.float32)
                alpha = rgba[..., 3:] / 255
                pixels = rgba[..., :3] * alpha + 255 * (1 - alpha)
                yield Frame(time, np.round(pixels).astype(np.uint8))
            time += length
            if picker.wanted is None:
                return


def _reason(error: BaseException) -> str:
    # What the system says without its number and the name, which stands before it.
    text = getattr(error, "strerror", None) or str(error)
    return ((text.strip() or type(error).__name__).splitlines()[0]).rstrip(".")
