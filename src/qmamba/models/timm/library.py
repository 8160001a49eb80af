"""The optional package timm, which has the backbones that QMamba is compared with."""

from __future__ import annotations

from functools import cache
from typing import Any

from qmamba.extras import declare_torchvision_operators, extra


@cache
def timm_library() -> Any:
    """The module ``timm``, imported on first use.

    Raises:
        MissingExtraError: timm or what it needs is not installed.
        QMambaError: it fails for another reason.
    """
    with extra("timm", "A ResNet, ViT or Swin backbone"):
        declare_torchvision_operators()
        import timm
    return timm
