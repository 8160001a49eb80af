"""`qmamba restore`: better images of files, folders, patterns and lists."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer

from qmamba.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    say,
)
from qmamba.cli.options.shared import (
    DeviceOption,
    MaxPixelsOption,
    MemoryOption,
    PrecisionOption,
    limit_memory,
)
from qmamba.errors import ConfigError, DataError, ImageError
from qmamba.files import require_writable

if TYPE_CHECKING:
    from qmamba.cli.display.fidelity import Gains
    from qmamba.images import ImageLayers
    from qmamba.inference import Precision
    from qmamba.restore import Job, Restorer, Source
    from qmamba.restore.restorer import Tile


class Task(str, Enum):
    """What is done to the images."""

    sr = "sr"
    denoise = "denoise"
    jpeg = "jpeg"


class FileFormat(str, Enum):
    """Formats of the results."""

    same = "same"
    png = "png"
    jpeg = "jpeg"
    webp = "webp"
    tiff = "tiff"


class AlphaTreatment(str, Enum):
    """What becomes of transparency."""

    resample = "resample"
    restore = "restore"


def _named_path(text: str) -> Path:
    """A path that was written out; an empty one would be the current folder."""
    if not text:
        raise typer.BadParameter("it is empty; give a file or a folder.")
    return Path(text)


def restore(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Image files, folders, quoted patterns such as 'photos/*.jpg', or - for a list on "
            "standard input (one per line, or NUL-separated).",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="File for one image (.png, .jpg, .webp, .tif); otherwise a folder, which gets the "
            "names and the inner folders of the inputs. Without it NAME-x2.png beside each image.",
            parser=_named_path,
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        Task | None,
        typer.Option(
            help="sr enlarges, denoise removes noise, jpeg removes JPEG artifacts (sr).",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=8,
            metavar="N",
            help="Factor of sr: 2, 3 or 4 (2); another one with a --model for it.",
            show_default=False,
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="X",
            help="Deviation of the noise, 0 to 255, for denoise.",
            show_default=False,
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            metavar="N",
            help="Quality that the JPEG files were saved with, for jpeg.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Weights: an embedded name (see `qmamba models`), a file, or a hub id owner/name. "
            "Without it the embedded ones for the task.",
            show_default=False,
        ),
    ] = None,
    tile: Annotated[
        str,
        typer.Option(
            metavar="auto|N|whole",
            help="Largest side of a tile in input pixels; auto divides an image only where memory "
            "is too small for it.",
        ),
    ] = "auto",
    overlap: Annotated[
        int, typer.Option(min=0, metavar="N", help="Input pixels that neighboring tiles share.")
    ] = 32,
    ensemble: Annotated[
        bool,
        typer.Option("--ensemble", help="Mean over 8 flips and turns: 8 times slower, better."),
    ] = False,
    alpha: Annotated[
        AlphaTreatment,
        typer.Option(help="Enlarge transparency by bicubic interpolation, or by the network."),
    ] = AlphaTreatment.resample,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    file_format: Annotated[
        FileFormat,
        typer.Option("--format", help="Format in an output folder; same makes PNG of GIF and BMP."),
    ] = FileFormat.same,
    save_quality: Annotated[
        int,
        typer.Option(
            min=1,
            max=100,
            metavar="N",
            help="Quality of JPEG and WebP files that are written; WebP at 100 is lossless.",
        ),
    ] = 95,
    strip_metadata: Annotated[
        bool,
        typer.Option(
            "--strip-metadata", help="Leave EXIF, XMP, density and texts out; ICC profiles stay."
        ),
    ] = False,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Go into the folders inside folders.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace output files that are there.")
    ] = False,
    skip_existing: Annotated[
        bool,
        typer.Option("--skip-existing", help="Pass over images whose output is there: resume."),
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The original of one image: print PSNR and SSIM of the result.",
            show_default=False,
        ),
    ] = None,
    score: Annotated[
        bool,
        typer.Option(
            "--score",
            help="Print the quality score of the result beside that of its input at the same size, "
            "and whether it has become better.",
        ),
    ] = False,
    keep_if_better: Annotated[
        bool,
        typer.Option(
            "--keep-if-better",
            help="Write only results whose score is clearly better; implies --score.",
        ),
    ] = False,
    max_pixels: MaxPixelsOption = None,
    memory: MemoryOption = None,
) -> None:
    """Restore images: enlarge them, remove noise or JPEG artifacts.

    One line per image goes to standard output: where the result is, or why there is none; the rest
    to standard error. Gray, 16 bits, transparency, color profile and metadata are kept where the
    output format has them. Every file is written as a whole or not at all.

    Exit code: 0 all restored and measured, 1 some not, 2 wrong usage or disk full, 130 interrupted.
    """
    from qmamba.cli.display.restoration import Counts, restore_all
    from qmamba.images import DEFAULT_MAX_PIXELS, read_layers, require_existing
    from qmamba.restore import Restorer, plan_beside, result_ending

    if inputs.count("-") > 1:
        raise ConfigError("The list on standard input (-) can be read once only.")
    if force and skip_existing:
        raise ConfigError("--force replaces files and --skip-existing keeps them; choose one.")
    limit_memory(memory)
    require_existing(inputs)
    wanted = None if file_format is FileFormat.same else file_format.value
    jobs = _jobs(inputs, output, wanted, recursive, present=force or skip_existing)
    if reference is not None and len(jobs) != 1:
        raise ConfigError(f"--reference is the original of one image, and there are {len(jobs)}.")
    limit = max_pixels or DEFAULT_MAX_PIXELS
    original = None if reference is None else read_layers(reference, max_pixels=limit)
    restorer = Restorer.from_pretrained(
        model,
        task=None if task is None else task.value,
        scale=scale,
        sigma=sigma,
        quality=quality,
        device=device,
        tile=_tile(tile),
        overlap=overlap,
        precision=cast("Precision", precision),
        ensemble=ensemble,
        alpha=alpha.value,
        max_pixels=limit,
    )
    if output is None:
        # The names of results say what was done, which is known now.
        jobs = list(
            plan_beside(_sources(inputs, None, recursive), result_ending(restorer), wanted)
        ) or _no_images(inputs, recursive)
    decoded = None
    if original is not None:
        decoded = _require_fitting(original, jobs[0], restorer.scale, limit)
    say(_legend(restorer))
    gains = _gains(device) if score or keep_if_better else None
    saving = {
        "quality": save_quality,
        "strip_metadata": strip_metadata,
        "overwrite": force,
        "skip_existing": skip_existing,
        "accept": gains.accept if gains is not None and keep_if_better else None,
    }
    counts = Counts(len(jobs))
    try:
        restore_all(restorer, jobs, counts, saving, original, decoded, gains)
    except KeyboardInterrupt:
        say(
            f"interrupted after {counts.done} of {counts.jobs} images; what is written is complete,"
            " and --skip-existing goes on from there"
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None
    say(str(counts))
    if counts.failed or counts.unmeasured:
        raise typer.Exit(EXIT_SOME_FAILED)


def _require_fitting(
    original: ImageLayers, job: Job, scale: int, max_pixels: int
) -> ImageLayers | None:
    from qmamba.cli.display.fidelity import require_fitting_size
    from qmamba.images import read_layers

    try:
        image = read_layers(job.source, max_pixels=max_pixels)
    except ImageError:
        # Its row will say so.
        return None
    require_fitting_size(original, image, scale)
    return image


def _gains(device: str) -> Gains:
    from qmamba.assess import Scorer
    from qmamba.cli.display.fidelity import UNLIMITED, Gains
    from qmamba.evaluation.comparison import RULE

    # It reads results of our own only, which are larger than what --max-pixels is about.
    scorer = Scorer.from_pretrained(device=device, max_pixels=UNLIMITED)
    scale = scorer.scale
    better = "higher" if scale.higher_is_better else "lower"
    say(f"{scale.name or 'score'}: {scale.low:g} to {scale.high:g}, {better} is better")
    say(RULE)
    return Gains(scorer)


def _tile(text: str) -> Tile:
    if text in ("auto", "whole"):
        return cast("Tile", text)
    if not text.isdecimal():
        raise ConfigError(f"--tile must be auto, whole or a number of pixels, got {text!r}.")
    return int(text)


def _jobs(
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
    from qmamba.images import UnreadableInput, find_images
    from qmamba.restore import Source

    for text in inputs:
        is_folder = os.path.isdir(text)
        passed_over = (
            output is not None
            and is_folder
            and _lies_in(output, text)
            and not _lies_in(text, output)
        )
        for found in find_images([text], recursive=recursive, stdin=sys.stdin.buffer):
            path = found.image if isinstance(found, UnreadableInput) else found
            if passed_over and output is not None and _lies_in(path, output):
                continue
            inside = os.path.relpath(os.path.dirname(path), text) if is_folder else ""
            yield Source(path, inside, found.error if isinstance(found, UnreadableInput) else None)


def _lies_in(path: str | Path, folder: str | Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _legend(restorer: Restorer) -> str:
    metadata = restorer.metadata
    named = "the model" if metadata is None else f"model {metadata.name}"
    digest = "" if metadata is None else f" (sha256 {(metadata.sha256 or 'unknown')[:12]})"
    what = restorer.purpose or (
        f"super-resolution x{restorer.scale}" if restorer.task == "sr" else restorer.task
    )
    quantization = getattr(restorer.model, "quantization", None)
    numbers: str = restorer.precision
    if quantization is not None:
        codes = f"W{quantization.weight_bits}A{quantization.activation_bits}"
        numbers = codes if numbers == "codes" else f"{numbers} from {codes}"
    reduced = f", reduced to x{restorer.scale}" if restorer.scale < restorer.config.scale else ""
    return f"{what}{reduced}: {named}{digest}, {restorer.device}, {numbers}"
