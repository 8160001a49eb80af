"""Every file that holds weights: reading, checking and writing."""

from qmamba.checkpoints.description import describe
from qmamba.checkpoints.hub.card import CardFigure, model_card
from qmamba.checkpoints.hub.publishable import Publishable
from qmamba.checkpoints.hub.upload import Published, publish, publish_model
from qmamba.checkpoints.loading import load, save_model
from qmamba.checkpoints.mismatch import MismatchError
from qmamba.checkpoints.packed_file import load_quantized, save_quantized
from qmamba.checkpoints.sources import list_weights
from qmamba.checkpoints.tuned_file import is_tuned_file, load_tuned, load_tuned_model, save_tuned

__all__ = [
    "CardFigure",
    "MismatchError",
    "Publishable",
    "Published",
    "describe",
    "is_tuned_file",
    "list_weights",
    "load",
    "load_quantized",
    "load_tuned",
    "load_tuned_model",
    "model_card",
    "publish",
    "publish_model",
    "save_model",
    "save_quantized",
    "save_tuned",
]
