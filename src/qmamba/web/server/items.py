"""What the page knows of one image and of the versions that were made of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from qmamba.assess import ImageRow
from qmamba.evaluation.comparison import Comparison
from qmamba.web.records import printable

State: TypeAlias = Literal["waiting", "scoring", "done", "canceled"]
Mark: TypeAlias = Literal["keep", "reject"]
VersionState: TypeAlias = Literal["waiting", "restoring", "done", "failed"]


@dataclass
class Version:
    """A restored version of an image, or one that is being made."""

    key: str
    """Name of the weights that make it."""
    label: str
    scale: int
    state: VersionState = "waiting"
    progress: float = 0.0
    file: Path | None = None
    """The result, with all that its format keeps."""
    download: str = ""
    """Name that the result is saved under."""
    comparison: Comparison | None = None
    error: str | None = None
    """Why there is no result, or no comparison."""

    def record(self, address: str) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        values: dict[str, Any] = {
            "key": self.key,
            "label": self.label,
            "scale": self.scale,
            "state": self.state,
            "progress": self.progress,
            "error": self.error,
        }
        if self.state == "done":
            values["url"] = f"{address}/versions/{self.key}"
            values["file"] = f"{address}/versions/{self.key}/file"
        if self.comparison is not None:
            gain, psnr = self.comparison.gain, self.comparison.psnr
            values["gain"] = {
                "before": gain.before.score,
                "after": gain.after.score,
                "difference": gain.difference,
                "standardError": gain.standard_error,
                "verdict": gain.verdict,
                "psnr": psnr if math.isfinite(psnr) else None,
            }
        return values


@dataclass
class Item:
    """An image of the page."""

    id: str
    """Random; nothing about the image can be told from it."""
    name: str
    """What a row of the table calls it: the path of a file in the folder of the command, the last
    part of the name of an uploaded file."""
    path: Path
    uploaded: bool
    state: State = "waiting"
    row: ImageRow | None = None
    shown: dict[str, Any] = field(default_factory=dict)
    """The fields that come from its score."""
    mark: Mark | None = None
    versions: dict[str, Version] = field(default_factory=dict)
    revision: int = 0
    """When it changed last, as a number that grows with every change of the session, so that a page
    knows which of two records is the newer."""

    def record(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        address = f"api/images/{self.id}"
        values = {
            "name": printable(self.name),
            "error": None,
            **self.shown,
            "id": self.id,
            "revision": self.revision,
            "state": self.state,
            "mark": self.mark,
        }
        # Until then nobody knows whether it can be decoded.
        if self.row is not None and self.row.score is not None:
            values["thumb"] = f"{address}/thumb"
            values["full"] = f"{address}/full"
        made = [version.record(address) for version in self.versions.values()]
        values["versions"] = [version for version in made if version["state"] == "done"]
        values["making"] = [version for version in made if version["state"] != "done"]
        return values
