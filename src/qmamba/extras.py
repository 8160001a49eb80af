"""Optional packages: imported on demand, with an error that names the extra that brings them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from qmamba.errors import QMambaError

_MISSING_OPERATOR = re.compile(r"operator torchvision::(\w+) does not exist")
# Its arguments play no part: it is declared and never called.
_ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_MOST_OPERATORS = 20

# A declaration lasts as long as the library object that made it.
_declared: list[object] = []


class MissingExtraError(QMambaError, ImportError):
    """A package that only an extra of this one brings is not installed."""


@contextmanager
def extra(name: str, purpose: str, *, install: str | None = None) -> Iterator[None]:
    """Import optional packages inside the block.

    Args:
        name: the extra, as in ``pip install "qmamba[name]"``.
        purpose: what needs the package, to begin the message with.
        install: what to install instead, where no extra brings the package.

    Raises:
        MissingExtraError: a package is not installed.
        QMambaError: a package is installed and cannot be imported for another reason.

    Example:
        >>> with extra("plot", "A scatter plot"):
        ...     import matplotlib
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs a package that is not here ({error}); "
            f'run pip install "{install or f"qmamba[{name}]"}".'
        ) from error
    except (RuntimeError, AttributeError) as error:
        import torch

        raise QMambaError(
            f"{purpose} needs a package that cannot be imported ({error}); install the torchvision "
            f"that belongs to torch {torch.__version__}."
        ) from error


def declare_torchvision_operators() -> None:
    """Make an installed torchvision importable beside a torch that it was not built for.

    Many packages of the field import torchvision, and one that was built for another torch (the
    usual one for CUDA beside a torch for the CPU, for example) stops at operators that its own
    library could not register. Nothing here uses them, so they are declared without a function, and
    the import goes on.

    Raises:
        RuntimeError: torchvision fails for another reason.
    """
    import torch

    for _ in range(_MOST_OPERATORS):
        try:
            import torchvision  # noqa: F401 - others import it next
        except ImportError:
            return
        except RuntimeError as error:
            missing = _MISSING_OPERATOR.search(str(error))
            if missing is None:
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(missing[1] + _ARGUMENTS)
            _declared.append(library)
        else:
            return
