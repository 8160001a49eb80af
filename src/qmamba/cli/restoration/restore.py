"""`qmamba restore`: better images of files, folders, patterns and lists."""

from __future__ import annotations

from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from qmamba.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    say,
)
from qmamba.cli.options.shared import (
    DeviceOption,
    ForceOption,
    MaxPixelsOption,
    MemoryOption,
    PrecisionOption,
    limit_memory,
)
from qmamba.cli.restoration.jobs import beside, keep_results, planned
from qmamba.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from qmamba.cli.display.fidelity import Gains
    from qmamba.images import ImageLayers
    from qmamba.inference import Precision
    from qmamba.restore import Job, Restorer
    from qmamba.restore.degradations import TaskName
    from qmamba.restore.restorer import Tile


class Task(str, Enum):
    """What is done to the images."""

    sr = "sr"
    denoise = "denoise"
    jpeg = "jpeg"
    auto = "auto"


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
            help="sr enlarges, denoise removes noise, jpeg removes JPEG artifacts, auto measures "
            "which of the last two each image needs, or none (sr).",
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
            help="Deviation of the noise, 0 to 255, for denoise; measured in each image without.",
            show_default=False,
        ),
    ] = None,
    strength: Annotated[
        float,
        typer.Option(
            min=0,
            max=4,
            metavar="X",
            help="Factor on the noise that denoise removes: below 1 more grain and detail stay.",
        ),
    ] = 1.0,
    real: Annotated[
        bool,
        typer.Option(
            "--real",
            help="Enlarge images that are slightly soft, noisy or compressed, as most files are.",
        ),
    ] = False,
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
    force: ForceOption = False,
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
    from qmamba.cli.restoration.automatic import ENDING, restore_as_needed
    from qmamba.images import DEFAULT_MAX_PIXELS, read_layers, require_existing
    from qmamba.restore import Restorer, result_ending

    if inputs.count("-") > 1:
        raise ConfigError("The list on standard input (-) can be read once only.")
    if force and skip_existing:
        raise ConfigError("--force replaces files and --skip-existing keeps them; choose one.")
    limit_memory(memory)
    require_existing(inputs)
    wanted = None if file_format is FileFormat.same else file_format.value
    jobs = planned(inputs, output, wanted, recursive, present=force or skip_existing)
    if reference is not None and len(jobs) != 1:
        raise ConfigError(f"--reference is the original of one image, and there are {len(jobs)}.")
    limit = max_pixels or DEFAULT_MAX_PIXELS
    original = None if reference is None else read_layers(reference, max_pixels=limit)
    automatic = task is Task.auto
    given = (model, scale, sigma, quality, real or None)
    if automatic and any(value is not None for value in given):
        raise ConfigError(
            "--task auto chooses the model; leave --model, --scale, --sigma, --quality and --real "
            "out."
        )
    load = partial(
        Restorer.from_pretrained,
        model,
        scale=scale,
        sigma=sigma,
        quality=quality,
        real=real,
        strength=strength,
        device=device,
        tile=_tile(tile),
        overlap=overlap,
        precision=cast("Precision", precision),
        ensemble=ensemble,
        alpha=alpha.value,
        max_pixels=limit,
    )
    restorer = (
        None if automatic else load(task=None if task is None else cast("TaskName", task.value))
    )
    if output is None:
        # The names of results say what was done, which is known now.
        ending = ENDING if restorer is None else result_ending(restorer)
        jobs = beside(inputs, ending, wanted, recursive)
    keep_results(jobs, output)
    decoded = None
    if original is not None:
        scale = 1 if restorer is None else restorer.scale
        decoded = _require_fitting(original, jobs[0], scale, limit)
    if restorer is not None:
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
        if restorer is None:
            restore_as_needed(load, jobs, counts, saving, original, decoded, gains, limit)
        else:
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
    return f"{what}: {named}{digest}, {restorer.device}, {numbers}"
