"""`qmamba export`: a network as an ONNX file that runs without this package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from qmamba.cli.common import answer, parsed_size, say, shown, table_lines, take_outputs
from qmamba.cli.options.shared import ForceOption

if TYPE_CHECKING:
    from qmamba.interop.onnx import Comparison, ExportReport


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Weights of a quality or restoration network: an embedded name, a file or a hub "
            "id.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The file to write (.onnx)."),
    ],
    opset: Annotated[
        int, typer.Option(metavar="N", help="Version of the standard operators, 18 to 23.")
    ] = 21,
    static: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Fix the height x width of the input; without it any size is taken.",
            show_default=False,
        ),
    ] = None,
    weight_bits: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Weights of 4 or 2 bits, rounded without data; shows what that changes.",
            show_default=False,
        ),
    ] = None,
    tuned: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="A tuned file that is put on the model.", show_default=False
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of a quantized network: codes, or fp32 for the weights of the codes and "
            "activations that are not quantized.  [default: codes]",
            show_default=False,
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Write a network as an ONNX file of standard operators, checked in ONNX Runtime.

    The input is `image`, values in [0, 1]; the output is `score` on the scale of the ratings, or
    the `restored` image. The file is kept only if it computes what the network computes, at sizes
    that it was not traced at. Of a quantized network it is a simulation in float32, or with
    --precision fp32 the network without quantized activations, which is faster. A blind denoiser
    has a second input, `noise`. Needs pip install 'qmamba[onnx]'.

    Exit code: 0 written, 2 wrong usage or a file that deviates, which is not kept.
    """
    sides = None if static is None else parsed_size("--static", static)
    take_outputs(output, force=force)

    from qmamba.interop.onnx import export_onnx

    report = export_onnx(
        source,
        output,
        opset=opset,
        static=sides,
        weight_bits=weight_bits,
        tuned=tuned,
        precision=cast('Literal["codes", "fp32"] | None', precision),
    )
    _report(report)


def _report(report: ExportReport) -> None:
    name = shown(report.metadata.get("qmamba.model", ""))
    say(
        f"{report.path}: {name}, {report.size / 2**20:.1f} MiB, opset {report.opset}, sha256 "
        f"{report.sha256[:12]}"
    )
    restores = report.comparisons[0].psnr is not None
    about = [_about_results(each) for each in report.comparisons]
    header = ("input", *about[0], "ONNX Runtime")
    header += ("qmamba" if report.changes is None else "rounded float32", "")
    rows = []
    for each, results in zip(report.comparisons, about, strict=True):
        batch, channels, height, width = each.shape
        ratio = each.milliseconds / each.own_milliseconds
        pace = f"{ratio:.1f}x slower" if ratio >= 1 else f"{1 / ratio:.1f}x faster"
        times = f"{each.milliseconds:.1f} ms", f"{each.own_milliseconds:.1f} ms"
        rows.append((f"{batch} x {channels} x {height} x {width}", *results.values(), *times, pace))
    answer("\n".join(table_lines(header, rows)))
    if report.is_simulation:
        what = "images" if restores else "scores"
        answer(
            f"The file {report.metadata['qmamba.simulation']}; its {what} are near those of the "
            "packed network, not equal to them."
        )
    if "qmamba.precision" in report.metadata:
        answer(f"The file computes in {report.metadata['qmamba.precision']}.")
    if report.changes is not None:
        bits = report.metadata["qmamba.weight_bits"]
        answer(
            f"Weights of {bits} bits change the results of these inputs by up to "
            f"{max(report.changes):.2g} of the range; photographs may change more."
        )


def _about_results(each: Comparison) -> dict[str, str]:
    """Columns of the table: how near the results of one input are."""
    found = {}
    if each.unrounded is None or each.psnr is None:
        found["deviation"] = f"{each.deviation:.1e}"
    if each.psnr is not None:
        found["PSNR"] = f"{each.psnr:.0f} dB"
    if each.unrounded is not None:
        found["without rounding"] = (
            f"{each.unrounded:.1e}" if each.psnr is None else f"{each.unrounded:.0f} dB"
        )
    return found
