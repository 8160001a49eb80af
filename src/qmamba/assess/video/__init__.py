"""Quality over time: frames of a video or an animation, scored one by one and pooled."""

from qmamba.assess.video.frames import VIDEO_SUFFIXES, Frame, FrameSource, open_frames
from qmamba.assess.video.scoring import FrameScore, VideoScore, score_video

__all__ = [
    "VIDEO_SUFFIXES",
    "Frame",
    "FrameScore",
    "FrameSource",
    "VideoScore",
    "open_frames",
    "score_video",
]
