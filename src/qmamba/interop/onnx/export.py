"""From a network to a checked file."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from qmamba.assess import Scorer
from qmamba.checkpoints import load, load_tuned_model
from qmamba.errors import ConfigError, QMambaError
from qmamba.files import atomic_write, require_writable
from qmamba.images import normalize
from qmamba.inference import ModuleNetwork, Precision, PreparedNetwork, prepare
from qmamba.interop.onnx.description import (
    about_model,
    about_scores,
    about_simulation,
    describe_file,
)
from qmamba.interop.onnx.functions import DOMAIN, VERSION, scan_functions
from qmamba.interop.onnx.graph import (
    ConditionedGraph,
    GraphSS2D,
    RestorationGraph,
    ScoreGraph,
    scan_layers,
    traceable,
)
from qmamba.interop.onnx.libraries import library, require_libraries
from qmamba.interop.onnx.rounding import DYNAMIC, FIXED, rounding_functions
from qmamba.interop.onnx.simulation import (
    converted,
    with_codes,
    without_rounding,
)
from qmamba.interop.onnx.verification import (
    Comparison,
    ExportReport,
    compare,
    fault,
    greatest_difference,
    open_session,
    sample_image,
    session_runner,
)
from qmamba.interop.onnx.weights import OLDEST_OPSET, WEIGHT_BITS, with_weight_bits
from qmamba.models import (
    Network,
    ScoreScale,
    architecture_of,
)
from qmamba.nn import AttentiveScan
from qmamba.quantization import dequantized
from qmamba.restore import Restorer

if TYPE_CHECKING:
    from onnx import ModelProto

DEFAULT_OPSET = 21
OPSETS = (18, 19, 20, 21, 22, 23)
"""Versions of the standard operators that a file can be written for."""

Exportable: TypeAlias = str | Path | Scorer | Restorer | Network

_INPUT, _NOISE = "image", "noise"
_DEQUANTIZED = "fp32: weights of the codes, activations that are not quantized"
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
    inputs: dict[str, int]
    """Channels of each."""
    metadata: dict[str, str]
    side: int | None
    unrounded: Callable[[Tensor], Tensor] | None = None
    """Of a quantized network: what it computes where activations are not quantized."""

    @property
    def conditions(self) -> int:
        """Channels that are a noise map."""
        return self.inputs.get(_NOISE, 0)


def export_onnx(
    model: Exportable,
    path: str | Path,
    *,
    opset: int = DEFAULT_OPSET,
    static: tuple[int, int] | None = None,
    weight_bits: int | None = None,
    tuned: str | Path | None = None,
    precision: Literal["codes", "fp32"] | None = None,
) -> ExportReport:
    """Write a model as an ONNX file and check it in ONNX Runtime.

    The input is ``image``, float32 ``(batch, channels, height, width)`` in [0, 1] with any batch,
    height and width. A quality model gives ``score``, ``(batch,)`` on the scale of its ratings and
    not clamped, for each view; crops are taken outside. A restoration model gives ``restored``,
    clamped to [0, 1]. A blind denoiser has a second input ``noise``, float32 ``(batch, 1, height,
    width)``: the deviation of the noise at each pixel, in image values.

    The file is written only after it gave what the network gives at three sizes other than the one
    it was traced at, odd ones among them, with one and two images at a time.

    Of a quantized network the file is a simulation, unless ``precision="fp32"``: values are rounded
    to the levels of their codes and computed on in float32. It is compared with the packed network
    by the peak signal-to-noise ratio of its images, or the deviation of its scores; see
    :func:`~qmamba.interop.onnx.verification.fault` for what is kept.

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
        precision: of a quantized network ``"codes"``, which is its default, or ``"fp32"``: the
            weights of the codes and activations that are not quantized, as
            :func:`qmamba.inference.prepare` understands it. Others are ``"fp32"``.

    Raises:
        QMambaError: the extra ``onnx`` is not installed, torch is older than 2.8, or the file does
            not compute what the network does; then none is left.
        ConfigError: an option is not allowed or does not fit the model, or the model is a
            MambaIRv2, whose scan depends on the image.
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
    given = _loaded(model, tuned)
    network = _in_precision(given, precision)
    if network.quantization is not None and weight_bits is not None:
        raise ConfigError(
            "The network is quantized and has the bits of its own weights; leave weight_bits out, "
            "or give precision='fp32' as well."
        )
    if any(isinstance(layer, AttentiveScan) for layer in network.modules()):
        raise ConfigError(
            "A MambaIRv2 cannot be exported: its scan visits the pixels in an order that depends "
            "on the image. Export a MambaIR instead, or restore with this package."
        )
    subject = _subject(network)
    if network.quantization is not given.quantization:
        subject.metadata["qmamba.precision"] = _DEQUANTIZED
    static = _static(static, subject)
    file = _traced(subject, opset, static)
    describe_file(file, subject.metadata)
    shapes = _shapes(subject, static)
    content, comparisons = _checked(file, subject, subject.ours, shapes)
    change = None
    if weight_bits is not None:
        packed, plain = with_weight_bits(file, weight_bits)
        subject.metadata["qmamba.weight_bits"] = str(weight_bits)
        describe_file(packed, subject.metadata)
        rounded = session_runner(open_session(plain.SerializeToString()))
        content, comparisons = _checked(packed, subject, rounded, shapes)
        run = session_runner(open_session(content))
        change = tuple(
            greatest_difference(run(image), subject.ours(image)) / subject.unit
            for image in (sample_image(shape, subject.conditions) for shape in shapes)
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
        conditions=subject.conditions,
        unrounded=subject.unrounded,
    )
    reason = fault(comparisons)
    if reason is not None:
        raise QMambaError(
            f"The ONNX file {reason}; no file was written. Please report it with the versions of "
            "torch, onnx and onnxruntime."
        )
    return content, comparisons


def _loaded(model: Exportable, tuned: str | Path | None) -> Network:
    if isinstance(model, str | Path):
        return load(model) if tuned is None else load_tuned_model(model, tuned)
    if tuned is not None:
        raise ConfigError("A tuned file is put on weights that are named; give their name.")
    return model.model if isinstance(model, Scorer | Restorer) else model


def _in_precision(network: Network, precision: str | None) -> Network:
    if precision not in (None, "codes", "fp32"):
        raise ConfigError(f"precision is codes or fp32, got {precision!r}.")
    if network.quantization is None:
        if precision == "codes":
            raise ConfigError(
                "precision='codes' is for quantized networks, and this one is in full precision."
            )
        return network
    return dequantized(converted(network)) if precision == "fp32" else network


def _subject(model: Network) -> _Subject:
    is_quantized = model.quantization is not None
    about = about_model(model.metadata)
    model = converted(model) if is_quantized else model
    precision: Precision = "codes" if is_quantized else "fp32"
    networks = [prepare(copy.deepcopy(model).cpu(), precision)]
    if is_quantized:
        about |= about_simulation(model)
        networks.append(ModuleNetwork(without_rounding(model)))
    if not architecture_of(model).rates:
        restorer = Restorer(model)
        config = restorer.config
        inputs = {_INPUT: config.channels}
        if config.condition_channels:
            inputs[_NOISE] = config.condition_channels
        kind = ConditionedGraph if config.condition_channels else RestorationGraph
        graph: ScoreGraph | RestorationGraph = kind(traceable(model))
        runs = [_restoring(network) for network in networks]
        about |= {
            "qmamba.task": restorer.task,
            "qmamba.scale": str(restorer.scale),
            "qmamba.noise_maps": str(config.condition_channels),
        }
        output, unit, side = "restored", 1.0, None
    else:
        scorer = Scorer(model)
        scale = scorer.scale
        graph = ScoreGraph(traceable(scorer.model), scale)
        runs = [_scoring(network, scale) for network in networks]
        about |= about_scores(scorer)
        output, unit, inputs = "score", scale.high - scale.low, {_INPUT: 3}
        side = model.config.image_size
    return _Subject(graph, runs[0], output, unit, inputs, about, side, *runs[1:])


def _restoring(network: PreparedNetwork) -> Callable[[Tensor], Tensor]:
    return lambda images: network(images).clamp(0, 1)


def _scoring(network: PreparedNetwork, scale: ScoreScale) -> Callable[[Tensor], Tensor]:
    @torch.no_grad()
    def score(images: Tensor) -> Tensor:
        return scale.target_mean + scale.target_std * network(normalize(images))[:, 0]

    return score


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
    channels = sum(subject.inputs.values())
    if static is not None:
        return [(batch, channels, *static) for batch in (1, 2, 3)]
    is_scorer = isinstance(subject.graph, ScoreGraph)
    sizes = _SCORER_SIZES if is_scorer else _RESTORER_SIZES
    return [(batch, channels, height, width) for batch, height, width in sizes]


def _traced(subject: _Subject, opset: int, static: tuple[int, int] | None) -> ModelProto:
    batch, height, width = _EXAMPLE if static is None else (_EXAMPLE[0], *static)
    dynamic = {0: "batch"} | ({2: "height", 3: "width"} if static is None else {})
    examples = tuple(
        torch.rand((batch, channels, height, width), dtype=torch.float32, device="cpu")
        for channels in subject.inputs.values()
    )
    try:
        with _quietly():
            program = torch.onnx.export(
                subject.graph.eval(),
                examples,
                dynamo=True,
                opset_version=opset,
                input_names=list(subject.inputs),
                output_names=[subject.output],
                dynamic_shapes=dict.fromkeys(subject.inputs, dynamic),
                verbose=False,
            )
    except Exception as error:  # Whatever tracing and translation raise.
        raise _reason(error) from error
    assert program is not None
    return _complete(program.model_proto, scan_layers(subject.graph), opset)


def _reason(error: BaseException) -> QMambaError:
    """What stopped the exporter: the error of a network itself, or torch's in one sentence."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, QMambaError):
            return cause
        last, cause = cause, cause.__cause__
    line = (str(last).strip().splitlines() or [type(last).__name__])[0]
    return QMambaError(
        f"torch {torch.__version__} cannot write this network as an ONNX file ({line}); no file "
        "was written. Please report it with the versions of torch, onnx and onnxscript."
    )


def _complete(file: ModelProto, layers: list[GraphSS2D], opset: int) -> ModelProto:
    """The file with the bodies of what it calls."""
    if layers:
        states = {layer.states for layer in layers}
        assert len(states) == 1
        file.functions.extend(
            scan_functions(
                opset,
                states=states.pop(),
                windows=any(layer.window > 1 for layer in layers),
                names={layer.function for layer in layers},
            )
        )
    with_codes(file, opset)
    called = {node.op_type for node in file.graph.node if node.domain == DOMAIN}
    file.functions.extend(rounding_functions(opset, called & {DYNAMIC, FIXED}))
    if called and DOMAIN not in {entry.domain for entry in file.opset_import}:
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
