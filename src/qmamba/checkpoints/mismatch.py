"""The error of weights that do not fit their model."""

from __future__ import annotations

from qmamba.errors import CheckpointError
from qmamba.models.metadata import shortened


class MismatchError(CheckpointError):
    """The tensors of a file are not those of the model; the message shortens long lists."""

    def __init__(
        self,
        source: str,
        missing: tuple[str, ...],
        unexpected: tuple[str, ...],
        misshapen: tuple[str, ...],
    ) -> None:
        self.missing = missing
        """Tensors of the model that the file lacks."""
        self.unexpected = unexpected
        """Tensors of the file that the model lacks."""
        self.misshapen = misshapen
        """``"key: (shape in file), model (shape in model)"``."""
        lists = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        found = "; ".join(f"{kind}: {shortened(keys)}" for kind, keys in lists if keys)
        super().__init__(f"The weights of {source} do not fit the model; {found}.")
