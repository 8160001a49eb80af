"""`qmamba quantize`: a network as codes of a few bits in one small file."""

from __future__ import annotations

import copy
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from qmamba.cli.common import answer, say, table_lines, take_outputs
from qmamba.cli.options.shared import ForceOption
from qmamba.errors import ConfigError

if TYPE_CHECKING:
    from qmamba.models import ModelMetadata, Network
    from qmamba.quantization import QuantConfig

_DEFAULT_BITS = 4
_METHOD = "dls+rfa"


def quantize(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Weights: an embedded name, a file (also official MambaIR, Q-MambaIR or VMamba "
            "checkpoints), a hub id; the folder of a training run with --quantize; or a packed "
            "file.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The packed file to write (.safetensors)."
        ),
    ],
    weight_bits: Annotated[
        int | None,
        typer.Option(metavar="N", help="Bits of weights: 2, 3, 4 or 8 (4).", show_default=False),
    ] = None,
    activation_bits: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Bits of activations (those of the weights).", show_default=False
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Quantizers: dls+rfa (the default), dls, rfa, minmax, lsq, lsq+, pams, dorefa, "
            "quantsr.",
            show_default=False,
        ),
    ] = None,
    statistics: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Over what dynamic parameters are taken: sample (each image), frozen"
            " (calibration), batch (sample).",
            show_default=False,
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Images such as the network will be given, on which activations are calibrated."
            " Without it random ones, which are worse.",
            show_default=False,
        ),
    ] = None,
    rest: Annotated[
        str,
        typer.Option(metavar="NAME", help="What is not quantized is stored as fp16 or fp32."),
    ] = "fp16",
    size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="PIXELS",
            help="Side of the square image that is measured with (64, for scoring 224).",
            show_default=False,
        ),
    ] = None,
    force: ForceOption = False,
    measure: Annotated[
        bool, typer.Option(help="Measure time and memory of both networks, each in a process.")
    ] = True,
) -> None:
    """Quantize a network and write it to one small file.

    Full-precision weights are quantized after training: weights by least squared error,
    activations calibrated on images. Networks that were trained with quantizers are packed as they
    were trained. The result is used like other weights: `qmamba restore`, `qmamba score`,
    `qmamba evaluate-restoration`.

    Exit code: 0 written, 2 wrong usage.
    """
    from qmamba.checkpoints import load
    from qmamba.checkpoints.packed_file import REST_DTYPES, save_quantized
    from qmamba.checkpoints.sources import read_weights
    from qmamba.models import count_parameters

    if rest not in REST_DTYPES:
        raise ConfigError(f"--rest is one of {', '.join(REST_DTYPES)}, got {rest!r}.")
    requests = {
        "--weight-bits": weight_bits,
        "--activation-bits": activation_bits,
        "--method": method,
        "--statistics": statistics,
        "--calibrate": calibrate,
    }
    _require_output(source, output, force)
    before = "before"
    folder = Path(source)
    if os.path.isdir(folder):
        from qmamba.training.restoration.quantized_run import trained_network

        _require_none(requests, f"The run in {source} was trained with its own settings")
        model, metadata = trained_network(folder)
        source = str(metadata.source)
        before = "full precision"
    else:
        model = cast(Any, load(source))
        metadata = _metadata(model, source)
        if getattr(model, "quantization", None) is not None:
            _require_none(requests, f"{source} is quantized already")
        else:
            before = "full precision"
            bits = weight_bits or _DEFAULT_BITS
            metadata = _after_training(
                model, metadata, bits, activation_bits or bits, method, statistics, calibrate
            )
    full = 4 * count_parameters(model.config)
    given = full if before == "full precision" else len(read_weights(source).content)
    metadata = save_quantized(model, output, metadata, rest=rest)
    _report(model, metadata, (before, source), (full, given), output, size, measure)


def _require_output(source: str, output: Path, force: bool) -> None:
    """Refuse, before any work, an output that is no packed file or would destroy something."""
    if output.suffix.lower() != ".safetensors":
        raise ConfigError(f"The name of a packed file ends in .safetensors, got {str(output)!r}.")
    given = os.path.expanduser(source)
    if os.path.exists(given) and os.path.exists(output) and os.path.samefile(given, output):
        raise ConfigError(f"{str(output)!r} is the input itself; choose another name.")
    take_outputs(output, force=force)


def _require_none(requests: dict[str, Any], reason: str) -> None:
    given = [name for name, value in requests.items() if value is not None]
    if given:
        raise ConfigError(f"{reason}; leave {', '.join(given)} out.")


def _metadata(model: Network, source: str) -> ModelMetadata:
    from qmamba.models import ModelMetadata

    name = Path(source).stem
    return model.metadata or ModelMetadata(name=name, architecture=model.config.architecture)


def _after_training(
    model: Network,
    metadata: ModelMetadata,
    weight_bits: int,
    activation_bits: int,
    method: str | None,
    statistics: str | None,
    folder: Path | None,
) -> ModelMetadata:
    """Quantize a network in full precision in place; what its file says about it."""
    from qmamba.quantization import calibrate, quantization_of, quantize_
    from qmamba.quantization.agreement import agreement
    from qmamba.quantization.calibration_images import calibration_inputs

    config = quantization_of(f"w{weight_bits}a{activation_bits}", method or _METHOD)
    config = config.replace(step="ptq", statistics=statistics or config.statistics)
    inputs = calibration_inputs(model, folder)
    full = copy.deepcopy(model)
    quantize_(model, config)
    calibrate(model, inputs)
    say(str(agreement(full, model, inputs)))
    if folder is None:
        say(
            "warning: calibrated and compared on random images, which say little about real ones;"
            " give --calibrate FOLDER with images of the kind that the network will see"
        )
    images = "random images" if folder is None else f"{len(inputs)} crops of {folder.name}"
    # What was measured in full precision is not true of the result.
    kept = {key: value for key, value in metadata.training.items() if key != "figures"}
    training = {
        **kept,
        "quantization": {
            "bits": [weight_bits, activation_bits],
            "method": method or _METHOD,
            "calibration": images,
        },
    }
    name = f"{metadata.name}-w{weight_bits}a{activation_bits}"
    return dataclasses.replace(metadata, name=name, training=training)


def _report(
    model: Network,
    metadata: ModelMetadata,
    before: tuple[str, str],
    sizes: tuple[int, int],
    output: Path,
    size: int | None,
    measure: bool,
) -> None:
    """Size, time and memory, beside those of the source.

    ``before`` is what the source is and its name, ``sizes`` the bytes of the network in float32 and
    those of the source.
    """
    from qmamba.checkpoints.packed_file import packed_parts
    from qmamba.models import QMamba

    full, given = sizes
    packed = output.stat().st_size
    settings = cast("QuantConfig", model.quantization)
    say(f"{output}: {metadata.name}, sha256 {str(metadata.sha256)[:12]}")
    parts = ", ".join(f"{name} {_kib(count)}" for name, count in packed_parts(output).items())
    header = ("", before[0], f"W{settings.weight_bits}A{settings.activation_bits}", "")
    rows: list[tuple[str, ...]] = [
        ("size", _kib(given), _kib(packed), f"{full / packed:.1f}x smaller than float32 ({parts})")
    ]
    if measure:
        from qmamba.inference.cost import measured

        side = size or (224 if isinstance(model, QMamba) else 64)
        say(f"measuring one image of {side} x {side}")
        first, second = measured(before[1], side), measured(str(output), side)
        if first is not None and second is not None:
            ratio = first.milliseconds / second.milliseconds
            pace = f"{ratio:.1f}x faster" if ratio >= 1 else f"{1 / ratio:.1f}x slower"
            times = (f"{each.milliseconds:.1f} ms" for each in (first, second))
            rows.append(("time", *times, pace))
            memory = (f"{each.megabytes:.1f} MB" for each in (first, second))
            rows.append(("peak memory", *memory, "above that of the program itself"))
    answer("\n".join(table_lines(header, rows)))


def _kib(count: int) -> str:
    return f"{count / 1024:.1f} KiB"
