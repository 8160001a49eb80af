"""The network of a run that was trained with quantizers, as its checkpoint holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from qmamba.errors import ConfigError, DataError
from qmamba.models import ARCHITECTURES, MambaIR, MambaIRConfig, ModelMetadata
from qmamba.quantization import QuantConfig, quantize_
from qmamba.training.checkpoints import CHECKPOINT_NAME, read_content
from qmamba.training.run import OPTIONS_NAME, read_record

_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RuntimeError)


def trained_network(folder: Path) -> tuple[MambaIR, ModelMetadata]:
    """The network with its trained quantizers, and what it is for.

    Of a run that is not finished, the weights are those of its last checkpoint; of one that keeps
    the best weights or their average, those.

    Args:
        folder: what ``qmamba train-restoration --quantize`` wrote.

    Raises:
        DataError: the folder holds no such run, or a damaged one.
    """
    for name in (OPTIONS_NAME, CHECKPOINT_NAME):
        if not (folder / name).is_file():
            raise DataError(
                f"The folder {str(folder)!r} holds no quantized run: it has no {name}; give the "
                "folder of a run of qmamba train-restoration --quantize, or a weights file."
            )
    try:
        record = read_record(folder / OPTIONS_NAME)
        content = read_content(folder / CHECKPOINT_NAME)
        if record["quantization"] is None:
            raise ConfigError("it was trained in full precision; give its weights file")
        architecture = record.get("architecture", MambaIRConfig.architecture)
        family = ARCHITECTURES[architecture]
        model = family.build(family.config.from_dict(record["config"]))
        if not isinstance(model, MambaIR):
            raise ConfigError(f"its network is a {architecture}, which restores no images")
        quantize_(model, QuantConfig(**record["quantization"]))
        model.load_state_dict(_kept(content), strict=True)
        figures, step = content["figures"], content["step"]
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"The folder {str(folder)!r} holds no quantized run: {reason}.") from error
    training = {**record["task"], "figures": figures, "steps": step}
    name = record["name"]
    source = (record["from"] or {}).get("source") or str(folder)
    metadata = ModelMetadata(name=name, architecture=architecture, training=training, source=source)
    return model.eval(), metadata


def _kept(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All tensors of the model: those that were kept over those of the last step."""
    kept = content["weights"]
    if content["average"] is not None:
        kept = {**kept, **content["average"]}
    if content["options"]["keep"] == "best" and content["best"] is not None:
        kept = {**kept, **content["best"]}
    return kept
