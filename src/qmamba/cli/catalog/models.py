"""`qmamba models`: what can be built, what it costs, and which weights come with the package."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

import typer

from qmamba.cli.common import answer, parsed_size, shown, table_lines
from qmamba.errors import ConfigError

if TYPE_CHECKING:
    from qmamba.models import NetworkConfig

_DEFAULT_SIZE = "224x224"


def models(
    pattern: Annotated[
        str, typer.Argument(help="Shell pattern of names, such as 'lq*'.", show_default=False)
    ] = "*",
    flops: Annotated[
        bool, typer.Option("--flops", help="Count multiply-adds of one image as well.")
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW", help="Height x width for --flops (224x224).", show_default=False
        ),
    ] = None,
) -> None:
    """List the models, their parameters and cost, and the embedded weights."""
    from qmamba.checkpoints import list_weights
    from qmamba.models import count_parameters, list_models, named_configs

    if size is not None and not flops:
        raise ConfigError("--size is the image size for --flops; add --flops.")
    height, width = parsed_size("--size", size or _DEFAULT_SIZE)
    names = list_models(pattern)
    weights = [name for name in list_weights() if fnmatchcase(name, pattern)]
    if not names and not weights:
        raise ConfigError(
            f"No model or weights match {pattern!r}; models are {', '.join(list_models())}."
        )
    if names:
        header: tuple[str, ...] = ("model", "parameters")
        rows: list[tuple[str, ...]] = [
            (name, f"{count_parameters(named_configs()[name]):,}") for name in names
        ]
        if flops:
            header += ("GFLOPs as in the paper", "GFLOPs with the scan")
            rows = [
                (*row, *_gflops(named_configs()[name], height, width))
                for row, name in zip(rows, names, strict=True)
            ]
        answer("\n".join(table_lines(header, rows)))
        if flops:
            answer(
                f"\nMultiply-adds of one image of {height} x {width} (height x width), in 10^9."
                "\nThe papers count the scan for QMamba and MambaIR and leave it out for LQMamba;"
                "\nMambaIR's figures are for the input whose output has 720 x 1280; ViT and Swin"
                "\nTransformer take 224 x 224 alone."
            )
    if weights:
        answer("\nEmbedded weights" if names else "Embedded weights")
        for name in weights:
            answer("\n".join(_described(name)))


def _gflops(config: NetworkConfig, height: int, width: int) -> tuple[str, str]:
    from qmamba.models import count_flops

    if config.image_size is not None and (config.image_size,) * 2 != (height, width):
        return "-", "-"
    report = count_flops(config, height, width)
    return f"{report.paper / 1e9:.3f}", f"{report.total / 1e9:.3f}"


def _described(weights: str) -> list[str]:
    from qmamba.checkpoints import describe
    from qmamba.restore.catalog import purpose_of

    metadata = describe(weights)
    lines = [f"  {weights}"]
    purpose = purpose_of(metadata)
    if purpose is not None:
        lines.append(f"    task    {purpose}")
    if metadata.score is not None:
        better = "higher" if metadata.score.higher_is_better else "lower"
        lines.append(
            f"    score   {metadata.score.name or 'unnamed'}, {metadata.score.low:g} to"
            f" {metadata.score.high:g}, {better} is better"
        )
    lines += [
        f"    {key:7} {shown(str(metadata.training[key]))}"
        for key in ("data", "terms")
        if key in metadata.training
    ]
    lines.append(f"    sha256  {metadata.sha256}")
    return lines
