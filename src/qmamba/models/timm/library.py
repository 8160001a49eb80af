"""The optional package timm, which has the backbones that QMamba is compared with."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import torch

from qmamba.errors import QMambaError

_MISSING_OPERATOR = re.compile(r"operator torchvision::(\w+) does not exist")
# Its arguments play no part: it is declared and never called.
_ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_MOST_OPERATORS = 20

# A declaration lasts as long as the library object that made it.
_declared: list[torch.library.Library] = []


@cache
def timm_library() -> Any:
    """The module ``timm``, imported on first use.

    timm imports torchvision, and a torchvision that was built for another torch (the usual one for
    CUDA beside a torch for the CPU, for example) stops at operators that its own library could not
    register. Backbones use none of them, so they are declared without a function, and the import
    goes on.

    Raises:
        QMambaError: timm or what it needs is not installed, or fails for another reason.
    """
    try:
        _import_torchvision()
        import timm
    except ImportError as error:
        raise QMambaError(
            f'ResNet, ViT and Swin backbones need timm ({error}); run pip install "qmamba[timm]".'
        ) from error
    except RuntimeError as error:
        raise QMambaError(
            f"timm cannot be imported ({error}); install the torchvision that belongs to torch "
            f"{torch.__version__}."
        ) from error
    return timm


def _import_torchvision() -> None:
    for _ in range(_MOST_OPERATORS):
        try:
            import torchvision  # noqa: F401 - timm imports it next
        except RuntimeError as error:
            missing = _MISSING_OPERATOR.search(str(error))
            if missing is None:
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(missing[1] + _ARGUMENTS)
            _declared.append(library)
        else:
            return
