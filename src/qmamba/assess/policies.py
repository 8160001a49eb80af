"""Input policies: which views of an image the network looks at, and what is done to it before.

A policy is a frozen dataclass; its text, e.g. "crops(size=224,count=10,layout=fixed)", says all
that is needed to repeat it and stands beside every score. The score of an image is the mean over
its views.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, TypeAlias

import torch

from qmamba.errors import CheckpointError, ConfigError
from qmamba.images import crop_grid, random_crops

SMALLEST_SIDE = 32
"""Images are padded to this side at least: one pixel of the last feature map covers 32 x 32."""

_MOST_PIXELS = 2**28


@dataclass(frozen=True)
class ViewPlan:
    """The geometry of an image's views: scale, then cut, then pad. Sizes are (height, width).

    Cutting before padding gives the same views as padding the whole image, because a side that is
    padded is never cut, and a strip of 1 x 1,000,000 pixels never grows to 224 x 1,000,000.
    """

    view: tuple[int, int]
    """Size of every view, reached by reflection where the cut is smaller."""
    corners: tuple[tuple[int, int], ...] = ((0, 0),)
    """Top and left pixel of every view in the scaled image."""
    scaled: tuple[int, int] | None = None
    """Size the image is scaled to first; None leaves it."""
    notes: tuple[str, ...] = ()
    """What of this is worth telling the reader of the score."""


@dataclass(frozen=True)
class CropsPolicy:
    """Square crops at the image's own resolution, the way the paper trains and tests (10 of 224).

    The fixed layout depends on the image's size alone, so the same image always gives the same
    crops. The random layout draws them from a generator seeded anew for every image, so that a
    score depends on the seed but not on which images came before.
    """

    name: ClassVar[str] = "crops"
    size: int = 224
    """Side of a crop in pixels; a smaller image is padded by reflection."""
    count: int = 10
    """Number of crops; where crops of the fixed layout coincide, one of them is kept."""
    layout: Literal["fixed", "random"] = "fixed"
    seed: int = 0
    """Seed of the random layout; without effect on the fixed one."""
    shorter: int | None = None
    """If given, an image whose shorter side is longer than this is scaled down to it first."""
    draft: bool = False
    """Whether a JPEG file that is scaled down is decoded at a fraction of its size."""
    native: bool = False
    """Whether flaws at native size lower the score of an image that is scaled down
    (:mod:`qmamba.assess.native.technical`)."""

    def __post_init__(self) -> None:
        _require_positive(self, "size", "count")
        _require_bounded(self, self.size**2 * self.count)
        if self.layout not in ("fixed", "random"):
            raise ConfigError(f"layout of the crops policy is fixed or random, got {self.layout!r}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(
                f"seed of the crops policy must be from 0 to 2**63 - 1, got {self.seed}"
            )
        if self.shorter is not None and self.shorter < self.size:
            raise ConfigError(
                f"The argument shorter={self.shorter} of the crops policy must not be less than "
                f"size={self.size}."
            )
        if self.draft and self.shorter is None:
            raise ConfigError(
                "draft=yes of the crops policy needs shorter=..., which it decodes for"
            )
        if self.draft and self.native:
            raise ConfigError(
                "draft=yes of the crops policy decodes nothing at native size; add native=no."
            )

    def __str__(self) -> str:
        text = f"crops(size={self.size},count={self.count},layout={self.layout}"
        if self.layout == "random":
            text += f",seed={self.seed}"
        if self.shorter is not None:
            text += f",shorter={self.shorter}"
        if self.draft:
            text += ",draft=yes"
        if self.native and self.shorter is not None:
            text += ",native=yes"
        return text + ")"

    @property
    def draft_side(self) -> int | None:
        """Shorter side that files are decoded for; None where they are decoded in full."""
        return self.shorter if self.draft else None

    def plan(self, height: int, width: int) -> ViewPlan:
        """The crops of an image of height x width pixels."""
        inner = (height, width)
        notes: tuple[str, ...] = ()
        if self.shorter is not None and min(inner) > self.shorter:
            least = min(inner)
            inner = (_rounded(height * self.shorter, least), _rounded(width * self.shorter, least))
            notes = (_scaling_note((height, width), inner),)
        if min(inner) < self.size:
            notes += (_padding_note(inner),)
        canvas = (max(inner[0], self.size), max(inner[1], self.size))
        if self.layout == "fixed":
            corners = crop_grid(*canvas, self.size, self.count)
        else:
            generator = torch.Generator().manual_seed(self.seed)
            corners = random_crops(*canvas, self.size, self.count, generator)
        return ViewPlan(
            view=(self.size, self.size),
            corners=tuple(dict.fromkeys((int(top), int(left)) for top, left in corners)),
            scaled=inner if inner != (height, width) else None,
            notes=notes,
        )


@dataclass(frozen=True)
class NativePolicy:
    """The whole image as one view at its own size and shape."""

    name: ClassVar[str] = "native"
    draft_side: ClassVar[int | None] = None
    max_pixels: int = 4_194_304
    """An image of more pixels is scaled down to this many first, which bounds time and memory."""

    def __post_init__(self) -> None:
        _require_positive(self, "max_pixels")
        if self.max_pixels < SMALLEST_SIDE**2:
            raise ConfigError(f"max_pixels of the native policy must be {SMALLEST_SIDE**2} or more")

    def __str__(self) -> str:
        return f"native(max_pixels={self.max_pixels})"

    def plan(self, height: int, width: int) -> ViewPlan:
        """The single view of an image of height x width pixels."""
        inner = (height, width)
        notes: tuple[str, ...] = ()
        longest = self.max_pixels // SMALLEST_SIDE
        if height * width > self.max_pixels or max(inner) > longest:
            factor = min(1.0, (self.max_pixels / (height * width)) ** 0.5)
            inner = (_shrunk(height, factor, longest), _shrunk(width, factor, longest))
            notes = (_scaling_note((height, width), inner),)
        if min(inner) < SMALLEST_SIDE:
            notes += (_padding_note(inner),)
        return ViewPlan(
            view=(max(inner[0], SMALLEST_SIDE), max(inner[1], SMALLEST_SIDE)),
            scaled=inner if inner != (height, width) else None,
            notes=notes,
        )


@dataclass(frozen=True)
class ResizePolicy:
    """The whole image scaled to a square, whatever its shape, as one view."""

    name: ClassVar[str] = "resize"
    draft_side: ClassVar[int | None] = None
    size: int = 224
    """Side of the square in pixels."""

    def __post_init__(self) -> None:
        _require_positive(self, "size")
        if self.size < SMALLEST_SIDE:
            raise ConfigError(f"size of the resize policy must be {SMALLEST_SIDE} or more")
        _require_bounded(self, self.size**2)

    def __str__(self) -> str:
        return f"resize(size={self.size})"

    def plan(self, height: int, width: int) -> ViewPlan:
        """The single view of an image of height x width pixels."""
        square = (self.size, self.size)
        return ViewPlan(square, scaled=None if (height, width) == square else square)


Policy: TypeAlias = CropsPolicy | NativePolicy | ResizePolicy

POLICIES: dict[str, type[Policy]] = {
    policy.name: policy for policy in (CropsPolicy, NativePolicy, ResizePolicy)
}

PRESETS = {
    "paper": "crops:size=224,count=10,layout=random,native=no",
    "fast": "crops:size=224,count=1,layout=fixed,shorter=512,draft=yes,native=no",
}
"""Texts with a name of their own. ``paper``: ten random crops of 224, as in QMamba's paper.
``fast``: one crop of the image at 512 pixels, decoded at that size, for filtering many images.
Neither looks at the native size of an image that is scaled down."""

_FIRST_FIELD = {"crops": "count", "native": "max_pixels", "resize": "size"}

_SWITCHES = ("draft", "native")

_METADATA_KEYS = {
    "crops": {"crop_size": "size", "crop_count": "count", "shorter_side": "shorter"},
    "native": {},
    "resize": {},
}


def parse_policy(text: str, base: Policy | None = None) -> Policy:
    """The policy that a text names: "native", "crops:count=5,layout=random", "resize(size=384)".

    "crops:5" is short for "crops:count=5", and "resize:384" for "resize:size=384"; "paper" is that
    of :data:`PRESETS`. Fields left out keep the value of `base` where that is a policy of the same
    kind, else the default. With parentheses a text is whole, as rows and plans hold it, and `base`
    does not count: `parse_policy(str(policy), base) == policy` for every policy of which no field
    is idle. Raises ConfigError for an unknown policy, field or value.
    """
    text = PRESETS.get(text.strip(), text)
    match = re.fullmatch(r"\s*(\w+)\s*(?::(?P<plain>[^()]*)|\((?P<call>[^()]*)\))?\s*", text)
    if match is None or match[1] not in POLICIES:
        raise ConfigError(
            f"The policy {text!r} is unknown; write one of {', '.join([*POLICIES, *PRESETS])}, with"
            " fields as in crops:count=5,layout=random."
        )
    kind = POLICIES[match[1]]
    known = [field.name for field in fields(kind)]
    values: dict[str, Any] = {}
    for item in filter(None, (match["plain"] or match["call"] or "").split(",")):
        if item.strip().isdecimal():
            item = f"{_FIRST_FIELD[kind.name]}={item}"
        key, separator, value = (part.strip() for part in item.partition("="))
        if key not in known or not separator:
            raise ConfigError(
                f"The policy {kind.name} has no field {item.strip()!r}; its fields are"
                f" {', '.join(f'{name}=' for name in known)} with a value."
            )
        values[key] = _field_value(kind.name, key, value)
    if match["call"] is None and isinstance(base, kind):
        return replace(base, **values)
    return kind(**values)


def policy_from_metadata(entry: Mapping[str, Any]) -> Policy:
    """The policy from the entry "policy" of a weights file's metadata.

    Raises CheckpointError if its name, a key or a value is unknown.
    """
    values = dict(entry)
    kind = POLICIES.get(str(values.pop("name", None)))
    if kind is None:
        raise CheckpointError(
            f"The weights' metadata ask for the policy {entry.get('name')!r}; known here are"
            f" {', '.join(POLICIES)}."
        )
    renamed = {_METADATA_KEYS[kind.name].get(key, key): value for key, value in values.items()}
    try:
        return kind(**renamed)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"The policy entry of the weights' metadata is not usable: {error}."
        ) from error


def policy_to_metadata(policy: Policy) -> dict[str, Any]:
    """The entry "policy" of a weights file's metadata; the inverse of `policy_from_metadata`."""
    keys = {field: key for key, field in _METADATA_KEYS[policy.name].items()}
    values = {
        keys.get(field.name, field.name): getattr(policy, field.name)
        for field in fields(policy)
        # Files say so only where it is so, and older readers do not know it.
        if field.name not in _SWITCHES or getattr(policy, field.name)
    }
    return {"name": policy.name, **values}


def _field_value(policy: str, key: str, text: str) -> int | str | bool | None:
    if key == "layout":
        return text
    if key in _SWITCHES:
        if text not in ("yes", "no"):
            raise ConfigError(f"{key} of the policy {policy} takes yes or no, got {text!r}")
        return text == "yes"
    if key == "shorter" and text == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(
            f"{key} of the policy {policy} takes a whole number, got {text!r}"
        ) from None


def _require_positive(policy: Policy, *names: str) -> None:
    for name in names:
        value = getattr(policy, name)
        if not isinstance(value, int) or value < 1:
            raise ConfigError(
                f"{name} of the {policy.name} policy must be a whole number of 1 or more, got"
                f" {value!r}."
            )


def _require_bounded(policy: CropsPolicy | ResizePolicy, pixels: int) -> None:
    if pixels > _MOST_PIXELS:
        raise ConfigError(
            f"The policy {policy} makes views of {pixels:,} pixels in all and {_MOST_PIXELS:,} are"
            " the most; choose a smaller size or count."
        )


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _shrunk(side: int, factor: float, longest: int) -> int:
    return min(max(1, int(side * factor)), longest)


def _scaling_note(before: tuple[int, int], after: tuple[int, int]) -> str:
    return f"scaled from {before[1]}x{before[0]} to {after[1]}x{after[0]}"


def _padding_note(size: tuple[int, int]) -> str:
    return f"padded from {size[1]}x{size[0]} by reflection"
