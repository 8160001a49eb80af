"""Adapting a quality model with few parameters: StylePrompt and the tunings it is compared with."""

from qmamba.prompts.config import TuningConfig, TuningMethod
from qmamba.prompts.modules import (
    ConvolutionPrompt,
    CrossAttentionPrompt,
    PromptMixture,
    StylePrompt,
)
from qmamba.prompts.tuned import BaseIdentity, TunedQMamba, attach, count_tuned, identity_of

__all__ = [
    "BaseIdentity",
    "ConvolutionPrompt",
    "CrossAttentionPrompt",
    "PromptMixture",
    "StylePrompt",
    "TunedQMamba",
    "TuningConfig",
    "TuningMethod",
    "attach",
    "count_tuned",
    "identity_of",
]
