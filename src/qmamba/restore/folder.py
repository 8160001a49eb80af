"""Many images: where each restored file goes, and restoring one after the other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypedDict

from qmamba.errors import ConfigError, QMambaError
from qmamba.files import NO_SPACE, make_folder, require_writable, temporary_folder
from qmamba.images import ENCODED_SUFFIXES
from qmamba.images.encode import DEFAULT_QUALITY
from qmamba.restore.adaptive_tiles import Canceled, Progress
from qmamba.restore.restored import RestoredImage
from qmamba.restore.restorer import Restorer

FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"}
"""Formats that can be asked for, and the endings of their files."""

_NEAREST_SUFFIX = {".jpe": ".jpg", ".jfif": ".jpg", ".mpo": ".jpg"}


class _Saving(TypedDict):
    """How results are encoded."""

    quality: int
    strip_metadata: bool


class Source(NamedTuple):
    """An image that was found."""

    path: str
    inside: str = ""
    """Folder that it lies in, relative to the input that it was found in."""
    error: str | None = None
    """Why it cannot be read, known beforehand."""


@dataclass(frozen=True)
class Job:
    """One image to restore."""

    source: str
    """The image's path."""
    target: Path
    """Where the restored image goes."""
    error: str | None = None
    """Why it cannot be done, known beforehand."""


Accept: TypeAlias = Callable[[Job, Path], bool]
"""Asked with each result, written to a file of another name, whether it shall get its own."""


@dataclass(frozen=True)
class RestoredRow:
    """What became of one image."""

    image: str
    """The image's path."""
    output: str
    """Path of the restored image."""
    restored: RestoredImage | None = None
    """The restored image; ``None`` where there is an error, the image was passed over, or the
    result was refused."""
    notes: tuple[str, ...] = ()
    """What was done to the image from decoding to encoding, one phrase each."""
    seconds: float = 0.0
    """Time from reading to writing."""
    error: str | None = None
    """Why it was not restored: one sentence."""
    declined: bool = False
    """Whether it was restored and the result refused, so that there is no output."""
    present: bool = False
    """Whether the error is that there is a file of the output's name."""

    @property
    def skipped(self) -> bool:
        """Whether the image was passed over because its output was there."""
        return self.restored is None and self.error is None and not self.declined


def target_name(source: str, file_format: str | None = None) -> str:
    """The name of a restored file: the source's, with the ending of its format.

    Args:
        source: path of the image; its last part counts.
        file_format: one of :data:`FORMATS`; ``None`` keeps the ending where such files can be
            written (GIF, BMP and names without an image ending become PNG).

    Raises:
        ConfigError: the format is unknown.
    """
    stem, suffix = os.path.splitext(os.path.basename(source))
    if file_format is None:
        if suffix.lower() in ENCODED_SUFFIXES:
            return stem + suffix
        return stem + _NEAREST_SUFFIX.get(suffix.lower(), FORMATS["png"])
    if file_format not in FORMATS:
        raise ConfigError(f"The format must be one of {', '.join(FORMATS)}, got {file_format!r}.")
    wanted = FORMATS[file_format]
    same = ENCODED_SUFFIXES.get(suffix.lower()) == ENCODED_SUFFIXES[wanted]
    return stem + (suffix if same else wanted)


def plan_jobs(
    sources: Iterable[Source], folder: Path, file_format: str | None = None
) -> Iterator[Job]:
    """Where the restored images of a folder go: the same tree of folders below ``folder``.

    An image that would be written over any of the sources, or over the result of an image before
    it (as ``a.jpg`` and ``a.png`` with one format), comes as a job with an error. Symbolic links
    are followed, so two names of one file count as one.

    Args:
        sources: the images.
        folder: where the results go.
        file_format: see :func:`target_name`.
    """
    sources = list(sources)
    inputs = {_real_path(source.path): source.path for source in sources}
    taken: dict[str, str] = {}
    for source, inside, error in sources:
        target = folder / inside / target_name(source, file_format)
        key = _real_path(target)
        if error is not None:
            pass
        elif key == _real_path(source):
            error = "its result would be written over the image itself; choose another folder"
        elif key in inputs:
            error = (
                f"its result would be written over the input {inputs[key]!r}; choose another "
                "format or folder for it"
            )
        elif key in taken:
            error = (
                f"its result would be written over that of {taken[key]!r}; choose another format "
                "or folder for it"
            )
        else:
            taken[key] = source
        yield Job(source, target, error)


def plan_beside(
    sources: Iterable[Source], ending: str, file_format: str | None = None
) -> Iterator[Job]:
    """Jobs whose results lie beside their images: ``photo.jpg`` gives ``photo-x2.png``.

    Results of an earlier run are no images to restore: of two names that differ by the ending, the
    longer one is left out.

    Args:
        sources: the images.
        ending: what is added to the name; see :func:`result_ending`.
        file_format: one of :data:`FORMATS`; ``None`` is PNG.
    """
    found = list(sources)
    stems = {os.path.splitext(source.path)[0] for source in found}

    def is_result(path: str) -> bool:
        stem = os.path.splitext(path)[0]
        return stem.endswith(ending) and stem.removesuffix(ending) in stems

    found = [source for source in found if not is_result(source.path)]
    inputs = {_real_path(source.path) for source in found}
    suffix = FORMATS["png" if file_format is None else file_format]
    taken: dict[str, str] = {}
    for path, _, error in found:
        target = Path(os.path.splitext(path)[0] + ending + suffix)
        key = _real_path(target)
        if error is None and (key in taken or key in inputs):
            other = taken.get(key, str(target))
            error = f"its result would be written over that of {other!r}; give an output folder"
        taken.setdefault(key, path)
        yield Job(path, target, error)


def result_ending(restorer: Restorer) -> str:
    """What names of results end with beside their images: ``-x2``, ``-denoised``, ``-cleaned``."""
    endings = {"denoise": "-denoised", "jpeg": "-cleaned"}
    return endings.get(restorer.task, f"-x{restorer.scale}")


def _real_path(path: str | Path) -> str:
    return os.path.normcase(os.path.realpath(path))


def restore_paths(
    restorer: Restorer | Sequence[Restorer],
    jobs: Iterable[Job],
    *,
    quality: int = DEFAULT_QUALITY,
    strip_metadata: bool = False,
    overwrite: bool = False,
    skip_existing: bool = False,
    accept: Accept | None = None,
    progress: Progress | None = None,
) -> Generator[RestoredRow, None, None]:
    """Restore image files, one row per file in the order given; a bad file gives an error row.

    Every output appears under its name only when it is complete, so what an interrupt leaves is
    good, and with ``skip_existing`` the same call goes on from there.

    Args:
        restorer: what restores them; several work one after the other, each on what the one before
            it gave.
        jobs: from :func:`plan_jobs`, or made by hand. Missing folders are made.
        quality, strip_metadata: see :func:`qmamba.images.write_layers`.
        overwrite: replace files that are there; otherwise they give error rows.
        skip_existing: pass over images whose output is there.
        accept: see :data:`Accept`; ``None`` takes every result.
        progress: called with the tiles of the present image that are done, and all of them.

    Raises:
        ConfigError: ``overwrite`` and ``skip_existing`` together.
        DataError: the disk is full.
    """
    if overwrite and skip_existing:
        raise ConfigError("Files that are there can be replaced or passed over, not both.")
    restorers = [restorer] if isinstance(restorer, Restorer) else restorer
    return (
        _row(restorers, job, quality, strip_metadata, overwrite, skip_existing, accept, progress)
        for job in jobs
    )


def _row(
    restorers: Sequence[Restorer],
    job: Job,
    quality: int,
    strip_metadata: bool,
    overwrite: bool,
    skip_existing: bool,
    accept: Accept | None,
    progress: Progress | None,
) -> RestoredRow:
    output = os.fspath(job.target)
    started = time.monotonic()
    try:
        if job.error is not None:
            return RestoredRow(job.source, output, error=job.error)
        if not overwrite and os.path.lexists(job.target):
            if skip_existing:
                return RestoredRow(job.source, output)
            return RestoredRow(job.source, output, error=f"{output!r} exists already", present=True)
        if job.target.parent.exists():
            # Before the work rather than after it.
            require_writable(job.target)
        restored = _restored(restorers, job.source, progress)
        make_folder(job.target.parent)
        options: _Saving = {"quality": quality, "strip_metadata": strip_metadata}
        if accept is None:
            lost = restored.save(job.target, overwrite=overwrite, **options)
        else:
            with temporary_folder(job.target) as folder:
                written = folder / job.target.name
                lost = restored.save(written, **options)
                if not accept(job, written):
                    return RestoredRow(job.source, output, declined=True)
                os.replace(written, os.path.realpath(job.target))
    except Canceled:
        raise
    except QMambaError as error:
        if _is_disk_full(error):
            raise
        # The row names the image already.
        return RestoredRow(job.source, output, error=str(error).replace(f" {job.source!r}", ""))
    except Exception as error:
        # One image must not end the work on all the others, whatever it does.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return RestoredRow(job.source, output, error=f"cannot be restored ({reason})")
    return RestoredRow(
        job.source, output, restored, (*restored.notes, *lost), time.monotonic() - started
    )


def _restored(
    restorers: Sequence[Restorer], source: str, progress: Progress | None
) -> RestoredImage:
    restored = restorers[0].restore(source, progress=_of(progress, 0, len(restorers)))
    for index, restorer in enumerate(restorers[1:], 1):
        step = _of(progress, index, len(restorers))
        restored = restorer.restore(restored.layers, progress=step)
    return restored


def _of(progress: Progress | None, index: int, steps: int) -> Progress | None:
    """The progress of one step of several, as that of all."""
    if progress is None:
        return None
    return lambda done, tiles: progress(index * tiles + done, steps * tiles)


def _is_disk_full(error: QMambaError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in NO_SPACE
