"""`qmamba train-restoration`: learn to undo shrinking, noise or JPEG."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qmamba.cli.common import say, shown
from qmamba.cli.display.training import TrainingDisplay
from qmamba.cli.options.shared import (
    ResumeOption,
    RunFolderOption,
    RunNameOption,
    TrainingDeviceOption,
)
from qmamba.cli.options.training import with_training_options
from qmamba.errors import ConfigError
from qmamba.training.options import TrainingOptions

RECIPE: dict[str, Any] = {
    "epochs": None,
    "steps": 20_000,
    "batch_size": 32,
    "learning_rate": 2e-4,
    "milestones": (0.5, 0.75, 0.875, 0.9375),
    "milestone_factor": 0.5,
    "weight_decay": 0.0,
    "betas": (0.9, 0.99),
    "clip_norm": None,
}
"""Training of the quantized networks as published: options of `TrainingOptions`."""

_GIBIBYTE = 1 << 30


@with_training_options(**RECIPE)
def train_restoration_command(
    data: Annotated[
        list[Path],
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Clean images, also in the folders inside; may be given several times.",
            show_default=False,
        ),
    ],
    out: RunFolderOption,
    options: TrainingOptions,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="sr|denoise|jpeg",
            help="What is learned; without it, what the model is for.",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(metavar="N", help="Factor of super-resolution (2).", show_default=False),
    ] = None,
    sigma: Annotated[
        str | None,
        typer.Option(
            metavar="X|LOW-HIGH",
            help="Deviation of the noise, on the scale 0 to 255 (25).",
            show_default=False,
        ),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            metavar="N|LOW-HIGH",
            help="Quality of the JPEG files, 1 to 100 (10-50).",
            show_default=False,
        ),
    ] = None,
    gray: Annotated[
        bool, typer.Option("--gray", help="Denoise gray images; JPEG artifacts always are.")
    ] = False,
    real: Annotated[
        bool,
        typer.Option(
            "--real",
            help="Damage as files have it: noise cut to 8 bits and partly growing with brightness"
            " (0-50), JPEG in color and twice (5-95), small images that are soft, noisy and"
            " compressed; 15 % clean.",
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Architecture (`qmamba models 'mambair-*'`); without it the nano one of the task.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WEIGHTS",
            help="Weights to start from: embedded name, file (also official MambaIR), or hub id.",
            show_default=False,
        ),
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="wNaN",
            help="Train with fake quantization: bits of weights and activations, such as w4a4.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Quantizers: dls+rfa (the default), dls, rfa, lsq, lsq+, pams, dorefa, quantsr.",
            show_default=False,
        ),
    ] = None,
    resume: ResumeOption = False,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Images that must not train, such as test sets; compared pixel by pixel.",
            show_default=False,
        ),
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            help="Side of the crops of the degraded image (64; 48 for a scale of 4, 128 without"
            " enlargement).",
            show_default=False,
        ),
    ] = None,
    loss: Annotated[str, typer.Option(metavar="l1|charbonnier", help="The loss.")] = "l1",
    start: Annotated[
        str,
        typer.Option(
            metavar="interpolation|random",
            help="First weights without --from: such that the network begins as bicubic"
            " interpolation or as the identity, or as published.",
        ),
    ] = "interpolation",
    drop_path: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Probability of dropping a scan (0; 0.1 as published).",
            show_default=False,
        ),
    ] = None,
    name: RunNameOption = None,
    memory: Annotated[
        float, typer.Option(min=0, metavar="GIB", help="Memory for decoded images.")
    ] = 4.0,
    device: TrainingDeviceOption = "cpu",
) -> None:
    """Train a restoration network on clean images, which are degraded on the fly.

    The defaults are the published training of the quantized networks: 20,000 steps of 32 crops.
    One content in twenty, and at most 20, is set aside to validate (the same on every run; the
    validation folder of DIV2K where it is there). The folder receives model.safetensors,
    options.json, log.jsonl and checkpoint.pt. A run that was killed goes on with the same command
    and --resume.

    Exit code: 0 finished, 2 wrong usage or data; stopped after a checkpoint: 130 by Ctrl-C, 143 by
    SIGTERM, 129 by SIGHUP.
    """
    from qmamba.checkpoints.loading import usable_device
    from qmamba.datasets.clean.images import find_clean_images, split_clean_images
    from qmamba.quantization import quantization_of
    from qmamba.training.distributed import is_main, process_group
    from qmamba.training.restoration.initial_network import (
        degradation_for,
        prepare_quantized,
        published_crop,
        restoration_network,
    )
    from qmamba.training.restoration.run import train_restoration
    from qmamba.training.restoration.task import CropOptions, RestorationTask
    from qmamba.training.run import MODEL_NAME, require_new_or_resumed, run_folder

    if method is not None and quantize is None:
        raise ConfigError("--method is how --quantize quantizes; give both.")
    quantization = None if quantize is None else quantization_of(quantize, method or "dls+rfa")
    index = usable_device(device)
    require_new_or_resumed(out, resume)
    overrides: dict[str, Any] = {} if drop_path is None else {"drop_path": drop_path}
    if gray:
        overrides["channels"] = 1
    network = restoration_network(
        task,
        scale,
        name=model,
        weights=weights,
        start=start,
        seed=options.seed,
        real=real,
        **overrides,
    )
    degradation = degradation_for(network, sigma, quality, real=real)
    crops = CropOptions(
        side=published_crop(degradation) if crop is None else crop,
        loss=loss,
        cache_bytes=round(memory * _GIBIBYTE),
    )
    display = TrainingDisplay()
    display.begin(out, resume=resume)
    with process_group(index), run_folder(out, resume=resume):
        images = find_clean_images(data, exclude or ())
        training, validation = split_clean_images(images)
        if is_main():
            say(f"{degradation}: {len(training)} images train, {len(validation)} validate")
        lesson = RestorationTask(degradation, training, validation, crops)
        if quantization is not None:
            prepare_quantized(network, quantization, lesson, seed=options.seed)
        result = train_restoration(
            network,
            lesson,
            options,
            out,
            name=name or out.absolute().name,
            quantization=quantization,
            card={
                "data": f"{len(training)} images of "
                + ", ".join(sorted({shown(folder.absolute().name) for folder in data})),
                "terms": "those of the images, which are not part of the weights",
            },
            resume=resume,
            device=device,
            report=display if is_main() else None,
        )
    display.finish(result, f"weights in {out / MODEL_NAME}")
