"""From a network to a checked file."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from qmamba import __version__
from qmamba.assess import Scorer
from qmamba.checkpoints import load, load_tuned_model
from qmamba.errors import ConfigError, QMambaError
from qmamba.files import atomic_write, require_writable
from qmamba.images import normalize
from qmamba.inference import prepare
from qmamba.interop.onnx.functions import DOMAIN, MERGED, ROUTES, VERSION, scan_functions
from qmamba.interop.onnx.graph import RestorationGraph, ScoreGraph, scan_layers, traceable
from qmamba.interop.onnx.libraries import library, require_libraries
from qmamba.interop.onnx.verification import (
    TOLERANCE,
    Comparison,
    ExportReport,
    compare,
    greatest_difference,
    open_session,
    sample_image,
    session_runner,
)
from qmamba.interop.onnx.weights import OLDEST_OPSET, WEIGHT_BITS, with_weight_bits
from qmamba.models import IMAGE_MEAN, IMAGE_STD, ModelMetadata, Network, architecture_of
from qmamba.restore import Restorer

if TYPE_CHECKING:
    from onnx import ModelProto

DEFAULT_OPSET = 21
OPSETS = (18, 19, 20, 21, 22, 23)
"""Versions of the standard operators that a file can be written for."""

Exportable: TypeAlias = str | Path | Scorer | Restorer | Network

_INPUT = "image"
_EXAMPLE = (2, 72, 88)
_SCORER_SIZES = ((1, 224, 224), (2, 161, 200), (1, 97, 225))
_RESTORER_SIZES = ((1, 64, 64), (2, 33, 57), (1, 61, 40))


@dataclass(frozen=True)
class _Subject:
    """What is exported, and how this package computes it."""

    graph: ScoreGraph | RestorationGraph
    ours: Callable[[Tensor], Tensor]
    output: str
    unit: float
    channels: int
    metadata: dict[str, str]
    side: int | None


def export_onnx(
    model: Exportable,
    path: str | Path,
    *,
    opset: int = DEFAULT_OPSET,
    static: tuple[int, int] | None = None,
    weight_bits: int | None = None,
    tuned: str | Path | None = None,
) -> ExportReport:
    """Write a model as an ONNX file and check it in ONNX Runtime.

    The input is ``image``, float32 ``(batch, channels, height, width)`` in [0, 1] with any batch,
    height and width. A quality model gives ``score``, ``(batch,)`` on the scale of its ratings and
    not clamped, for each view; crops are taken outside. A restoration model gives ``restored``,
    clamped to [0, 1].

    The file is written only after it gave what the network gives at three sizes other than the one
    it was traced at, odd ones among them, with one and two images at a time.

    Args:
        model: embedded weights, a path or a hub id as for :func:`qmamba.checkpoints.load`; a
            scorer, a restorer, or a network with metadata.
        path: the file to write or replace, which needs nothing beside it.
        opset: version of the standard operators, one of :data:`OPSETS`.
        static: fixed height and width instead of any.
        weight_bits: 4 or 2 for weights of few bits (:mod:`qmamba.interop.onnx.weights`), which
            change the results; by how much, the report says. The rounding of the weights is done
            without data. Such a file needs ONNX Runtime and opset 21 or newer.
        tuned: a tuned file that is put on the model.

    Raises:
        QMambaError: the extra ``onnx`` is not installed, torch is older than 2.8, or the file does
            not compute what the network does; then none is left.
        ConfigError: an option is not allowed or does not fit the model.
        CheckpointError: the weights cannot be found, or are neither a scorer nor a restorer.
        DataError: the file cannot be written.

    Example:
        >>> import qmamba
        >>> from tempfile import TemporaryDirectory
        >>> model = qmamba.create_model("mambair-nano-x2", depths=(1,))
        >>> with TemporaryDirectory() as folder:
        ...     report = qmamba.export_onnx(model, f"{folder}/larger.onnx")
        >>> report.deviation < 1e-4, report.metadata["qmamba.task"]
        (True, 'sr')
    """
    require_libraries()
    path = Path(path)
    if opset not in OPSETS:
        raise ConfigError(f"opset is one of {', '.join(map(str, OPSETS))}, got {opset!r}.")
    if path.suffix.lower() != ".onnx":
        raise ConfigError(f"The name of an ONNX file ends in .onnx, got {str(path)!r}.")
    if weight_bits is not None:
        _check_bits(weight_bits, opset)
    require_writable(path)
    subject = _subject(_loaded(model, tuned))
    static = _static(static, subject)
    file = _traced(subject, opset, static)
    _describe(file, subject.metadata)
    shapes = _shapes(subject, static)
    content, comparisons = _checked(file, subject, subject.ours, shapes)
    change = None
    if weight_bits is not None:
        packed, plain = with_weight_bits(file, weight_bits)
        subject.metadata["qmamba.weight_bits"] = str(weight_bits)
        _describe(packed, subject.metadata)
        rounded = session_runner(open_session(plain.SerializeToString()))
        content, comparisons = _checked(packed, subject, rounded, shapes)
        run = session_runner(open_session(content))
        change = tuple(
            greatest_difference(run(image), subject.ours(image)) / subject.unit
            for image in map(sample_image, shapes)
        )
    with atomic_write(path) as stream:
        stream.write(content)
    return ExportReport(
        path=path,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        opset=opset,
        comparisons=comparisons,
        metadata=subject.metadata,
        changes=change,
    )


def _check_bits(bits: int, opset: int) -> None:
    if bits not in WEIGHT_BITS:
        raise ConfigError(f"weight_bits is 4 or 2, got {bits!r}.")
    if opset < OLDEST_OPSET:
        raise ConfigError(
            f"Weights of few bits need opset {OLDEST_OPSET} or newer, got {opset}; leave opset out."
        )


def _checked(
    file: ModelProto,
    subject: _Subject,
    expected: Callable[[Tensor], Tensor],
    shapes: list[tuple[int, int, int, int]],
) -> tuple[bytes, tuple[Comparison, ...]]:
    """A file's content and how it compares, or an error if it deviates."""
    content = file.SerializeToString()
    library("onnx").checker.check_model(content, full_check=True)
    comparisons = compare(
        session_runner(open_session(content)),
        expected,
        shapes,
        subject.unit,
        images=isinstance(subject.graph, RestorationGraph),
    )
    worst = max(comparisons, key=lambda comparison: comparison.deviation)
    if not worst.deviation <= TOLERANCE:
        raise QMambaError(
            f"The ONNX file deviates by {worst.deviation:.2g} from the network at an input of "
            f"{worst.shape}, and {TOLERANCE:g} is the most; no file was written. Please report it "
            "with the versions of torch, onnx and onnxruntime."
        )
    return content, comparisons


def _loaded(model: Exportable, tuned: str | Path | None) -> Network:
    if isinstance(model, str | Path):
        return load(model) if tuned is None else load_tuned_model(model, tuned)
    if tuned is not None:
        raise ConfigError("A tuned file is put on weights that are named; give their name.")
    return model.model if isinstance(model, Scorer | Restorer) else model


def _subject(model: Network) -> _Subject:
    if model.quantization is not None:
        raise ConfigError(
            "The network is quantized; export the full-precision weights that it was made from."
        )
    run = prepare(copy.deepcopy(model).cpu())
    if not architecture_of(model).rates:
        restorer = Restorer(model)
        about = _about(restorer.metadata) | {
            "qmamba.task": restorer.task,
            "qmamba.scale": str(restorer.scale),
            "qmamba.noise_maps": str(restorer.config.condition_channels),
        }
        return _Subject(
            graph=RestorationGraph(traceable(model)),
            ours=lambda images: run(images).clamp(0, 1),
            output="restored",
            unit=1.0,
            channels=restorer.config.inputs,
            metadata=about,
            side=None,
        )
    scorer = Scorer(model)
    scale = scorer.scale
    about = _about(scorer.metadata) | {
        "qmamba.task": "score",
        "qmamba.score": json.dumps(
            {
                "name": scale.name,
                "low": scale.low,
                "high": scale.high,
                "higher_is_better": scale.higher_is_better,
            }
        ),
        "qmamba.policy": str(scorer.policy),
        "qmamba.mean": json.dumps(IMAGE_MEAN),
        "qmamba.std": json.dumps(IMAGE_STD),
    }

    @torch.no_grad()
    def score(images: Tensor) -> Tensor:
        return scale.target_mean + scale.target_std * run(normalize(images))[:, 0]

    return _Subject(
        graph=ScoreGraph(traceable(scorer.model), scale),
        ours=score,
        output="score",
        unit=scale.high - scale.low,
        channels=3,
        metadata=about,
        side=model.config.image_size,
    )


def _about(metadata: ModelMetadata | None) -> dict[str, str]:
    """What every file says about itself; no paths, which would tell of the machine."""
    about = {"qmamba.version": __version__}
    if metadata is not None:
        about |= {"qmamba.model": metadata.name, "qmamba.sha256": metadata.sha256 or ""}
        for key in ("terms", "data"):
            if key in metadata.training:
                about[f"qmamba.{key}"] = str(metadata.training[key])
    return about


def _static(static: tuple[int, int] | None, subject: _Subject) -> tuple[int, int] | None:
    if subject.side is not None:
        bound = (subject.side, subject.side)
        if static not in (None, bound):
            raise ConfigError(
                f"The model takes images of {subject.side} x {subject.side} pixels alone, so "
                f"static={static} is not possible; leave it out."
            )
        return bound
    if static is not None and (len(static) != 2 or not all(0 < side < 2**16 for side in static)):
        raise ConfigError(f"static is a height and a width in pixels, got {static!r}.")
    return static


def _shapes(subject: _Subject, static: tuple[int, int] | None) -> list[tuple[int, int, int, int]]:
    if static is not None:
        return [(batch, subject.channels, *static) for batch in (1, 2, 3)]
    is_scorer = isinstance(subject.graph, ScoreGraph)
    sizes = _SCORER_SIZES if is_scorer else _RESTORER_SIZES
    return [(batch, subject.channels, height, width) for batch, height, width in sizes]


def _traced(subject: _Subject, opset: int, static: tuple[int, int] | None) -> ModelProto:
    batch, height, width = _EXAMPLE if static is None else (_EXAMPLE[0], *static)
    dynamic = {0: "batch"} | ({2: "height", 3: "width"} if static is None else {})
    with _quietly():
        program = torch.onnx.export(
            subject.graph.eval(),
            (
                torch.rand(
                    (batch, subject.channels, height, width), dtype=torch.float32, device="cpu"
                ),
            ),
            dynamo=True,
            opset_version=opset,
            input_names=[_INPUT],
            output_names=[subject.output],
            dynamic_shapes={_INPUT: dynamic},
            verbose=False,
        )
    assert program is not None
    file = program.model_proto
    layers = scan_layers(subject.graph)
    if layers:
        states = {layer.states for layer in layers}
        assert len(states) == 1
        file.functions.extend(
            scan_functions(
                opset,
                states=states.pop(),
                windows=any(layer.window > 1 for layer in layers),
                names={ROUTES if layer.multi_scan is not None else MERGED for layer in layers},
            )
        )
        if DOMAIN not in {entry.domain for entry in file.opset_import}:
            entry = file.opset_import.add()
            entry.domain, entry.version = DOMAIN, VERSION
    return file


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporter talks about its own steps, to streams, loggers and as warnings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _describe(file: ModelProto, metadata: dict[str, str]) -> None:
    """Put in what is known of the model, and take out what tells of the machine it was made on."""
    file.producer_name, file.producer_version = "qmamba", __version__
    file.doc_string = ""
    for part in (file, file.graph):
        del part.metadata_props[:]
    for node in file.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    values: list[Any] = [*file.graph.value_info, *file.graph.initializer]
    for value in (*values, *file.graph.input, *file.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    for key, text in metadata.items():
        entry = file.metadata_props.add()
        entry.key, entry.value = key, text
