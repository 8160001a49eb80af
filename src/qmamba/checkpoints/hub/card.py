"""The README of a hub repository, made from what a weights file says about itself."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qmamba.errors import ConfigError
from qmamba.models.mambair.config import RestorationConfig
from qmamba.models.metadata import TUNED, ModelMetadata
from qmamba.models.registry import ARCHITECTURES

MARK = "Written by `qmamba push`"
"""What every card of ours has in its last line; a README without it is somebody's own."""

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,59}")
_MARKUP = re.compile(r"([\\`*_{}\[\]#|~$])")
# An absolute path names folders of the machine that trained; its last part says enough.
_ABSOLUTE = re.compile(r"(?<![\w:/.])(?:[A-Za-z]:)?[\\/](?:[^\s\\/,;]+[\\/])+(?=[^\s\\/])")
_LONGEST = 2000
_METRICS = {"psnr": "PSNR in dB", "ssim": "SSIM", "srcc": "SRCC", "plcc": "PLCC", "krcc": "KRCC"}


@dataclass(frozen=True)
class CardFigure:
    """One measured figure of a card."""

    metric: str
    """Short name, such as ``"srcc"`` or ``"psnr"``."""
    value: float
    data: str
    """The images that it was measured on."""
    images: int | None = None
    """How many there were."""
    interval: tuple[float, float] | None = None
    """Ends of its confidence interval."""


def model_card(
    metadata: ModelMetadata,
    repository: str,
    *,
    license: str | None = None,
    figures: Sequence[CardFigure] = (),
) -> str:
    """Markdown with the front matter that the hub reads.

    Nothing of the metadata reaches the page as markup, and absolute paths are cut to their last
    part.

    Args:
        metadata: what the file says about itself, with its digest.
        repository: ``owner/name`` that the card is for.
        license: identifier of the license of the weights as the hub lists them, such as
            ``"apache-2.0"``; ``None`` takes the metadata's own. Without either the card says that
            none is stated.
        figures: what was measured; ``None`` of them takes the metadata's own figures.

    Raises:
        ConfigError: the license is no identifier.
    """
    from huggingface_hub import ModelCardData

    license = license or _text(metadata.training.get("license")) or None
    if license is not None and not _LICENSE.fullmatch(license):
        raise ConfigError(
            f"A license is an identifier of the hub such as apache-2.0, got {license!r}."
        )
    figures = tuple(figures) or tuple(_own_figures(metadata))
    fields = ModelCardData(
        license=license,
        library_name="qmamba",
        pipeline_tag="image-to-image" if _restores(metadata) else None,
        tags=_tags(metadata),
        model_name=metadata.name if figures else None,
        eval_results=[_result(metadata, figure) for figure in figures] or None,
    )
    parts = [
        f"---\n{fields.to_yaml()}\n---",
        f"# {_safe(metadata.name)}",
        _purpose(metadata),
        _use(metadata, repository),
        *_sections(metadata, license),
        *_table(figures),
        f"{MARK} from the metadata of the file; remove this line to keep your own changes.",
    ]
    return "\n\n".join(parts) + "\n"


def _tags(metadata: ModelMetadata) -> list[str]:
    if _restores(metadata):
        tags = ["image-restoration", "mamba", metadata.architecture]
        task = _degradation(metadata).get("task")
        names = {"sr": "super-resolution", "denoise": "denoising", "jpeg": "jpeg-artifacts"}
        return [*tags, names[task]] if task in names else tags
    return ["image-quality-assessment", "no-reference-iqa", "mamba"]


def _purpose(metadata: ModelMetadata) -> str:
    if metadata.score is not None:
        scale = metadata.score
        better = "higher" if scale.higher_is_better else "lower"
        return (
            f"Predicts the opinion score that people would give a photograph: {_safe(scale.name)}, "
            f"from {scale.low:g} to {scale.high:g}, {better} is better."
        )
    if _restores(metadata):
        fields = _degradation(metadata)
        words = {"sr": "Enlarges images", "denoise": "Removes noise", "jpeg": "Repairs JPEG images"}
        sentence = words.get(str(fields.get("task")), "Restores images")
        details = [
            f"{key} {_safe(str(fields[key]))}"
            for key in ("scale", "sigma", "quality")
            if fields.get(key) not in (None, 1)
        ]
        return sentence + (f" ({', '.join(details)})." if details else ".")
    return "A vision Mamba network; its weights were not trained to give a score."


def _use(metadata: ModelMetadata, repository: str) -> str:
    if _restores(metadata):
        command = f"qmamba restore photos/ -o restored/ --model {repository}"
        code = (
            "from qmamba import Restorer\n\n"
            f'Restorer.from_pretrained("{repository}").restore("photo.jpg").save("restored.png")'
        )
    elif metadata.architecture == TUNED:
        command = f"qmamba score photos/ --tuned {repository}"
        code = (
            "from qmamba import Scorer\n\n"
            f'print(Scorer.from_pretrained(tuned="{repository}")("photo.jpg").score)'
        )
    elif metadata.score is not None:
        command = f"qmamba score photos/ --model {repository}"
        code = (
            "from qmamba import Scorer\n\n"
            f'print(Scorer.from_pretrained("{repository}")("photo.jpg").score)'
        )
    else:
        command = f"qmamba train --data ratings.csv --from {repository} -o run"
        code = f'from qmamba import load\n\nmodel = load("{repository}")'
    return (
        f"## Use\n\n```bash\npip install qmamba\n{command}\n```\n\n```python\n{code}\n```\n\n"
        f"`{repository}@COMMIT` pins a commit. The file holds tensors and text alone, no code."
    )


def _sections(metadata: ModelMetadata, license: str | None) -> Iterator[str]:
    rows = [("architecture", metadata.architecture), ("sha256", metadata.sha256 or "unknown")]
    if metadata.policy is not None:
        values = ", ".join(f"{key} {value}" for key, value in sorted(metadata.policy.items()))
        rows.append(("input policy", values))
    quantized = metadata.training.get("quantization")
    if isinstance(quantized, dict):
        bits = quantized.get("bits")
        widths = " and ".join(str(each) for each in bits) if isinstance(bits, list) else str(bits)
        rows.append(("bits of weights and activations", widths))
        rows.append(
            ("quantized after training, calibrated on", _text(quantized.get("calibration")))
        )
    lines = [f"| {name} | {_safe(value)} |" for name, value in rows]
    yield "\n".join(["## File", "", "| | |", "|---|---|", *lines])
    terms = _text(metadata.training.get("terms"))
    data = _text(metadata.training.get("data")) or "The file does not say what it was trained on."
    if license:
        stated = f"The license of the weights is {license}."
    elif terms:
        stated = "Nothing else is stated about a license of the weights."
    else:
        stated = "The file does not state a license of the weights; ask their author."
    yield "\n\n".join(
        [
            "## Data and terms",
            f"Training data: {_safe(data)}",
            *([f"Terms: {_safe(terms)}"] if terms else []),
            stated,
        ]
    )
    protocol = _text(metadata.training.get("protocol"))
    if protocol:
        yield f"## Protocol\n\n{_safe(protocol)}"


def _table(figures: Sequence[CardFigure]) -> Iterator[str]:
    if not figures:
        return
    rows = []
    for figure in figures:
        interval = figure.interval
        ends = "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
        count = "" if figure.images is None else str(figure.images)
        name = _METRICS.get(figure.metric, figure.metric)
        rows.append(
            f"| {_safe(name)} | {figure.value:.3f}{ends} | {_safe(figure.data)} | {count} |"
        )
    head = ["## Figures", "", "| metric | value | measured on | images |", "|---|---|---|---|"]
    yield "\n".join([*head, *rows])


def _own_figures(metadata: ModelMetadata) -> Iterator[CardFigure]:
    """What a training measured on its validation images."""
    training = metadata.training
    found = training.get("figures")
    count = training.get("validation_images", training.get("validation_pictures"))
    images = count if isinstance(count, int) and not isinstance(count, bool) else None
    for name, value in sorted(found.items()) if isinstance(found, dict) else ():
        if isinstance(name, str) and isinstance(value, (int, float)) and math.isfinite(value):
            yield CardFigure(name, float(value), "validation images of the training", images)


def _result(metadata: ModelMetadata, figure: CardFigure) -> Any:
    from huggingface_hub import EvalResult

    restores = _restores(metadata)
    name = " ".join(figure.data.split())
    if figure.images is not None:
        name = f"{name} ({figure.images} images)"
    return EvalResult(
        task_type="image-to-image" if restores else "image-quality-assessment",
        task_name="Image restoration" if restores else "Image quality assessment",
        dataset_type="custom",
        dataset_name=name,
        metric_type=figure.metric,
        metric_name=_METRICS.get(figure.metric, figure.metric),
        metric_value=round(figure.value, 4),
    )


def _restores(metadata: ModelMetadata) -> bool:
    family = ARCHITECTURES.get(metadata.architecture)
    return family is not None and issubclass(family.config, RestorationConfig)


def _degradation(metadata: ModelMetadata) -> dict[str, Any]:
    found = metadata.training.get("degradation")
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _safe(text: str) -> str:
    """One line of plain text in Markdown and HTML, without folders of this machine."""
    line = " ".join(
        "".join(letter if letter.isprintable() else " " for letter in text[:_LONGEST]).split()
    )
    return _MARKUP.sub(r"\\\1", html.escape(_ABSOLUTE.sub("", line), quote=False))
