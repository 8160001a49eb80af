"""Which images `qmamba restore` restores, and where the results go."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from qmamba.cli.common import hold, say
from qmamba.errors import ConfigError, DataError
from qmamba.files import made_folder, require_writable
from qmamba.locks import owned_folder, owned_output, remove_leftovers

if TYPE_CHECKING:
    from qmamba.restore import Job, Source


def planned(
    inputs: list[str],
    output: Path | None,
    file_format: str | None,
    recursive: bool,
    *,
    present: bool,
) -> list[Job]:
    """All images with their outputs, so that wrong usage is found before a network is loaded."""
    from qmamba.images import IMAGE_SUFFIXES
    from qmamba.restore import Job, plan_jobs

    if output is None:
        if "-" in inputs:
            raise ConfigError("A list on standard input (-) needs an output folder; add -o FOLDER.")
        jobs = [Job(path, Path(path)) for path, *_ in _sources(inputs, None, recursive)]
        return jobs or _no_images(inputs, recursive)
    if output.suffix.lower() in IMAGE_SUFFIXES and not os.path.isdir(output):
        return [_single_job(inputs, output, file_format, present=present)]
    if os.path.lexists(output) and not os.path.isdir(output):
        raise ConfigError(f"{str(output)!r} is a file; give a folder or the name of an image file.")
    jobs = list(plan_jobs(_sources(inputs, output, recursive), output, file_format))
    return jobs or _no_images(inputs, recursive)


def beside(inputs: list[str], ending: str, file_format: str | None, recursive: bool) -> list[Job]:
    """Jobs whose results lie beside their images, their names with an ending."""
    from qmamba.restore import plan_beside

    jobs = list(plan_beside(_sources(inputs, None, recursive), ending, file_format))
    return jobs or _no_images(inputs, recursive)


def keep_results(jobs: list[Job], output: Path | None) -> None:
    """Keep the results to this process until the command ends: one file, or the folders of many.

    So several processes may restore one image each into the same folder. Of several folders, those
    that cannot be written are passed over, because the lines of their images will say so.

    Raises:
        DataError: another process has a result or a folder, or the only one cannot be written.
    """
    if len(jobs) == 1:
        target = jobs[0].target
        hold(made_folder(target.parent))
        hold(owned_output(target))
        return
    folders = {job.target.parent for job in jobs} if output is None else {output}
    for folder in folders:
        if len(folders) == 1 or _is_writable(folder):
            hold(owned_folder(folder))
    remove_leftovers(job.target for job in jobs)


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK) or not os.path.lexists(folder)


def _no_images(inputs: list[str], recursive: bool) -> NoReturn:
    hint = "" if recursive or inputs == ["-"] else "; --recursive looks into folders inside"
    raise DataError(f"No images found in {', '.join(map(repr, inputs))}{hint}.")


def _single_job(inputs: list[str], output: Path, file_format: str | None, *, present: bool) -> Job:
    from qmamba.images.encode import format_of
    from qmamba.restore import FORMATS, Job

    source = inputs[0]
    if len(inputs) > 1 or not os.path.lexists(source) or os.path.isdir(source):
        raise ConfigError(f"{str(output)!r} is the name of one image file; give a folder instead.")
    kind = format_of(output)
    if file_format is not None and format_of("x" + FORMATS[file_format]) != kind:
        raise ConfigError(f"--format {file_format} contradicts the name {str(output)!r}.")
    if not os.path.isdir(output.parent):
        raise DataError(f"There is no folder {str(output.parent)!r}; make it first.")
    if os.path.realpath(output) == os.path.realpath(source):
        raise ConfigError(f"{str(output)!r} is the image itself; choose another name.")
    if os.path.lexists(output) and not present:
        raise ConfigError(f"{str(output)!r} exists already; --force replaces it.")
    require_writable(output)
    return Job(source, output)


def _sources(inputs: list[str], output: Path | None, recursive: bool) -> Iterator[Source]:
    """The images, without the results of an earlier run that lie inside an input folder."""
    from qmamba.images import LeftOut, UnreadableInput, find_images
    from qmamba.restore import Source

    left_out = LeftOut()
    for text in inputs:
        is_folder = os.path.isdir(text)
        passed_over = (
            output is not None
            and is_folder
            and _lies_in(output, text)
            and not _lies_in(text, output)
        )
        for found in find_images(
            [text], recursive=recursive, stdin=sys.stdin.buffer, left_out=left_out
        ):
            path = found.image if isinstance(found, UnreadableInput) else found
            if passed_over and output is not None and _lies_in(path, output):
                continue
            inside = os.path.relpath(os.path.dirname(path), text) if is_folder else ""
            yield Source(path, inside, found.error if isinstance(found, UnreadableInput) else None)
    if left_out.sentence:
        say(left_out.sentence)


def _lies_in(path: str | Path, folder: str | Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
