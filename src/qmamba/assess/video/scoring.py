"""One figure for a video from the scores of its frames.

A video score here is a frame score pooled over time. It is trained on no ratings of videos: it
knows nothing of motion, stutter or sound.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qmamba.assess.scorer import Scorer
from qmamba.assess.video.frames import DEFAULT_COUNT, FrameSource, open_frames
from qmamba.errors import ImageError

WORST_SHARE = 0.05
"""Share of the frames that ``worst`` is the mean of."""
MOST_WORST_TIMES = 5
"""Of so many of the worst frames the times are told."""


@dataclass(frozen=True)
class FrameScore:
    """The score of one frame."""

    time: float
    """Seconds from the beginning."""
    score: float


@dataclass(frozen=True)
class VideoScore:
    """The quality of a video over time."""

    video: str
    """Name of the file as it was given."""
    score: float
    """Mean over the frames, on ``scale``."""
    worst: float
    """Mean over the worst five percent of the frames, at least one."""
    temporal_spread: float
    """Standard deviation over the frames; 0 for a single one."""
    worst_times: tuple[float, ...]
    """Seconds at which the worst frames are, the worst first, at most five."""
    duration: float | None
    """Seconds; None where the file does not say."""
    width: int
    height: int
    scale: tuple[float, float]
    """Lowest and highest possible score."""
    higher_is_better: bool
    model: str
    """Name of the weights."""
    sha256: str
    notes: tuple[str, ...]
    """What was met on the way, for example where a damaged file ends."""
    frames: tuple[FrameScore, ...]
    """The frames that were looked at, in their order."""

    def __float__(self) -> float:
        return self.score

    def to_dict(self) -> dict[str, Any]:
        """A flat dictionary of plain values without the single frames, for a table."""
        return {
            "video": self.video,
            "score": self.score,
            "worst": self.worst,
            "temporal_spread": self.temporal_spread,
            "worst_times": list(self.worst_times),
            "frames": len(self.frames),
            "duration": self.duration,
            "width": self.width,
            "height": self.height,
            "scale_low": self.scale[0],
            "scale_high": self.scale[1],
            "higher_is_better": self.higher_is_better,
            "model": self.model,
            "sha256": self.sha256,
            "notes": list(self.notes),
        }


def score_video(
    scorer: Scorer, path: str | Path, *, count: int = DEFAULT_COUNT, every: float | None = None
) -> VideoScore:
    """Score frames of a video or an animated image and pool them.

    Memory holds a batch of frames, however long the video.

    Args:
        scorer: rates the frames.
        path: the file.
        count: frames, evenly over the whole time.
        every: seconds between two frames instead.

    Raises:
        ConfigError: ``count`` or ``every`` is not possible.
        ImageError: the file cannot be read, holds no moving image, is too large, or is HDR.
        QMambaError: PyAV is not installed and the file needs it.

    Example:
        >>> from qmamba.assess import Scorer
        >>> score_video(Scorer.from_pretrained(), "clip.mp4")  # doctest: +SKIP
    """
    source = open_frames(path, count=count, every=every, max_pixels=scorer.max_pixels)
    times: list[float] = []
    scores = [float(score) for score in scorer(_images(source, times))]
    if not scores:
        reason = f" ({'; '.join(source.notes)})" if source.notes else ""
        raise ImageError(f"The video {Path(path).name!r} has no frame that can be read{reason}.")
    scale = scorer.scale
    worst_first = sorted(
        range(len(scores)), key=lambda i: scores[i] if scale.higher_is_better else -scores[i]
    )
    worst = worst_first[: max(1, math.ceil(WORST_SHARE * len(scores)))]
    return VideoScore(
        video=str(path),
        score=math.fsum(scores) / len(scores),
        worst=math.fsum(scores[i] for i in worst) / len(worst),
        temporal_spread=statistics.pstdev(scores),
        worst_times=tuple(times[i] for i in worst[:MOST_WORST_TIMES]),
        duration=source.duration,
        width=source.width,
        height=source.height,
        scale=(scale.low, scale.high),
        higher_is_better=scale.higher_is_better,
        model=scorer.metadata.name,
        sha256=scorer.metadata.sha256 or "",
        notes=tuple(source.notes),
        frames=tuple(FrameScore(t, s) for t, s in zip(times, scores, strict=True)),
    )


def _images(source: FrameSource, times: list[float]) -> Iterator[npt.NDArray[np.uint8]]:
    for frame in source.frames:
        times.append(frame.time)
        yield frame.image
