"""What a file says about itself and its model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qmamba import __version__
from qmamba.assess import Scorer
from qmamba.interop.onnx.simulation import SIMULATION
from qmamba.models import IMAGE_MEAN, IMAGE_STD, ModelMetadata, Network
from qmamba.quantization import QuantConfig
from qmamba.quantization.config import FULL_PRECISION

if TYPE_CHECKING:
    from onnx import ModelProto


def about_model(metadata: ModelMetadata | None) -> dict[str, str]:
    """What every file says about itself; no paths, which would tell of the machine."""
    about = {"qmamba.version": __version__}
    if metadata is not None:
        about |= {"qmamba.model": metadata.name, "qmamba.sha256": metadata.sha256 or ""}
        for key in ("terms", "data"):
            if key in metadata.training:
                about[f"qmamba.{key}"] = str(metadata.training[key])
    return about


def about_scores(scorer: Scorer) -> dict[str, str]:
    """What a file says about its scores and the crops that they are taken of."""
    scale = scorer.scale
    return {
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


def about_simulation(model: Network) -> dict[str, str]:
    """What the file of a quantized network says about how it computes."""
    config = model.quantization
    assert isinstance(config, QuantConfig)
    bits = (config.weight_bits or FULL_PRECISION, config.activation_bits or FULL_PRECISION)
    return {
        "qmamba.simulation": SIMULATION.format(*bits),
        "qmamba.quantization": json.dumps(config.to_dict(), sort_keys=True),
    }


def describe_file(file: ModelProto, metadata: dict[str, str]) -> None:
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
