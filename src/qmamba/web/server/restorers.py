"""The restoration networks that a page offers, loaded when they are asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qmamba.errors import ConfigError
from qmamba.images import DEFAULT_MAX_PIXELS
from qmamba.restore import Restorer
from qmamba.restore.catalog import embedded_purposes

_LOADED = 2


@dataclass(frozen=True)
class Choice:
    """One way to restore an image."""

    key: str
    """What the page calls it; a request can name no other weights."""
    label: str
    scale: int
    source: str
    """Embedded name, path or hub id of the weights; the page never sees it."""

    def record(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return {"key": self.key, "label": self.label, "scale": self.scale}


class Restorers:
    """The embedded networks and those named on the command line.

    Args:
        named: weights, beyond the embedded ones.
        device: where they run.
        max_pixels: largest image that is decoded.

    Raises:
        CheckpointError: named weights cannot be found or do not restore.
    """

    def __init__(
        self,
        named: Sequence[str] = (),
        *,
        device: str = "cpu",
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self._device, self._max_pixels = device, max_pixels
        self._loaded: OrderedDict[str, Restorer] = OrderedDict()
        found = []
        for source in named:
            restorer = self._load(source)
            name = "" if restorer.metadata is None else restorer.metadata.name
            what = str(restorer.purpose or restorer.task)
            found.append((f"{what} ({name or 'own weights'})", restorer.scale, source))
        for source, purpose in embedded_purposes().items():
            found.append((str(purpose), purpose.scale, source))
        self.choices = tuple(
            Choice(f"r{number}", *values) for number, values in enumerate(found, start=1)
        )
        """What can be asked for."""

    def choice(self, key: str) -> Choice:
        """Look a choice up.

        Raises:
            ConfigError: there is none of that key.
        """
        for choice in self.choices:
            if choice.key == key:
                return choice
        raise ConfigError("There is no such way to restore an image.")

    def load(self, key: str) -> Restorer:
        """The restorer of a choice; the last two stay in memory.

        Raises:
            ConfigError: there is none of that key.
            CheckpointError: its weights cannot be loaded.
        """
        source = self.choice(key).source
        if source not in self._loaded:
            self._loaded[source] = self._load(source)
        self._loaded.move_to_end(source)
        while len(self._loaded) > _LOADED:
            self._loaded.popitem(last=False)
        return self._loaded[source]

    def _load(self, source: str) -> Restorer:
        return Restorer.from_pretrained(source, device=self._device, max_pixels=self._max_pixels)
