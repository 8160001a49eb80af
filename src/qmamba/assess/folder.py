"""Many images: finding them, and scoring them with decoding in parallel and bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias

from qmamba.assess.score import Score
from qmamba.assess.scorer import Scorer
from qmamba.assess.views import ImageViews
from qmamba.errors import ConfigError, ImageError, QMambaError
from qmamba.images import UnreadableInput

_CHUNK = 65_536


@dataclass(frozen=True)
class ImageRow:
    """What became of one image: a score or an error."""

    image: str
    """The image's path."""
    score: Score | None = None
    """Its score, None where there is an error."""
    error: str | None = None
    """Why there is no score: one sentence, None where there is one."""

    def to_dict(self) -> dict[str, Any]:
        """A flat dictionary of plain values with the keys :data:`~qmamba.assess.COLUMNS`."""
        values = dict.fromkeys(COLUMNS) if self.score is None else self.score.to_dict()
        return {**values, "image": self.image, "error": self.error}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageRow:
        """The row that :meth:`to_dict` made these values of.

        Raises:
            KeyError, TypeError, ValueError: they are none.
        """
        if values["score"] is None:
            return cls(str(values["image"]), error=str(values["error"]))
        return cls(str(values["image"]), score=Score.from_dict(values))


Found: TypeAlias = "str | os.PathLike[str] | ImageRow | UnreadableInput"
"""An image file, or one of which is known already what becomes of it."""

COLUMNS = (
    "image",
    "score",
    "raw",
    "scale_low",
    "scale_high",
    "higher_is_better",
    "crop_spread",
    "whole",
    "native",
    "width",
    "height",
    "policy",
    "model",
    "sha256",
    "notes",
    "error",
)
"""The fields of a row, in the order of a table's columns."""


def score_paths(
    scorer: Scorer,
    paths: Iterable[Found],
    *,
    workers: int = 2,
) -> Generator[ImageRow, None, None]:
    """Score image files, one row per file in the order given; a bad file gives an error row.

    Files are decoded ahead in threads, at most two per thread, so that memory depends on the size
    of the images but not on their number. The rows come as they are finished; the threads end
    when the iterator does.

    Args:
        scorer: what scores them.
        paths: files, for example from :func:`~qmamba.images.find_images`; a row among them is
            handed on.
        workers: number of decoding threads.

    Raises:
        ConfigError: ``workers`` is below 1.
    """
    if workers < 1:
        raise ConfigError(f"The argument workers must be 1 or more, got {workers}.")
    return _score_paths(scorer, paths, workers)


def _score_paths(
    scorer: Scorer,
    paths: Iterable[Found],
    workers: int,
) -> Generator[ImageRow, None, None]:
    names: deque[str] = deque()
    with closing(_prepared(scorer, paths, workers, names)) as prepared:
        for result in scorer.score_prepared(prepared):
            name = names.popleft()
            if isinstance(result, QMambaError):
                # The row names the image already.
                yield ImageRow(name, error=str(result).replace(f" {name!r}", ""))
            else:
                yield ImageRow(name, score=result)


def _prepared(
    scorer: Scorer,
    paths: Iterable[Found],
    workers: int,
    names: deque[str],
) -> Generator[ImageViews | QMambaError, None, None]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="qmamba-decode")
    pending: deque[Future[ImageViews | QMambaError]] = deque()
    try:
        for path in paths:
            if isinstance(path, ImageRow | UnreadableInput):
                names.append(path.image)
                pending.append(_finished(ImageError(path.error or "")))
            else:
                names.append(os.fspath(path))
                pending.append(pool.submit(_prepare, scorer, names[-1]))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _prepare(scorer: Scorer, path: str) -> ImageViews | QMambaError:
    try:
        return scorer.prepare(path)
    except QMambaError as error:
        return error
    except Exception as error:
        # One image must not end the work on all the others, whatever it does.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return ImageError(f"cannot prepare the image ({reason})")


def _finished(error: QMambaError) -> Future[ImageViews | QMambaError]:
    future: Future[ImageViews | QMambaError] = Future()
    future.set_result(error)
    return future
