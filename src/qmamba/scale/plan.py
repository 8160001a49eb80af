"""The plan of a run: which shards there are, of what they consist, and how they are scored.

The plan is the first file of a folder of scores and never changes. It is what a later start of the
same command is compared with, and what workers on other machines go by.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmamba import __version__
from qmamba.errors import DataError
from qmamba.files import atomic_write, create_exclusively, make_folder
from qmamba.scale.rows import valid_text
from qmamba.scale.shard_file import Format, require_arrow
from qmamba.scale.sources import Found, Root, Sources

if TYPE_CHECKING:
    from qmamba.assess import Scorer

BOOKS = "_qmamba"
"""Folder of all that is not scores; readers of data sets pass over names with an underscore."""

DEFAULT_SHARD_SIZE = 10_000
"""Names in a shard of single files."""

_LAYOUT = 1
_SHOWN = 3
_DIGEST = 16
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")


@dataclass(frozen=True)
class Settings:
    """All that scores depend on beside the images."""

    model: str
    """Name of the weights."""
    sha256: str
    """SHA-256 of the weights file."""
    policy: str
    """Which views of an image are scored."""
    precision: str
    """Numbers that the network computes with."""
    max_pixels: int
    """Largest image that is decoded."""
    batch_images: int
    """Images that share a call of the network."""
    format: Format
    """Form of the shards' files."""
    version: str = __version__
    """Version of this package."""

    @classmethod
    def of(cls, scorer: Scorer, format: Format) -> Settings:
        """The settings of a scorer."""
        return cls(
            model=scorer.metadata.name,
            sha256=scorer.metadata.sha256 or "",
            policy=str(scorer.policy),
            precision=scorer.precision,
            max_pixels=scorer.max_pixels,
            batch_images=scorer.batch_images,
            format=format,
        )


@dataclass(frozen=True)
class Shard:
    """A part of the work that is done as a whole or not at all."""

    name: str
    """Name of its file of scores, without suffix."""
    kind: str
    """"names", "tar" or "parquet"."""
    root: int
    """Index of the root that it lies under."""
    path: str = ""
    """Path of the tar or Parquet file below the root."""
    size: int = 0
    """Bytes of that file."""
    mtime_ns: int = 0
    """When that file was changed last."""
    count: int = 0
    """Number of names or of rows; 0 for a tar, which says so only when it is read."""
    group: int = 0
    """Row group of the Parquet file."""
    names: str = ""
    """SHA-256 of the list of names."""


@dataclass(frozen=True)
class Plan:
    """The shards of a run and the settings of their scores."""

    settings: Settings
    shard_size: int
    roots: tuple[Root, ...]
    shards: tuple[Shard, ...]

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all but where the roots lie."""
        content = self.to_json()
        content["roots"] = [root.label for root in self.roots]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values; fields of shards that are 0 or empty are left out."""
        return {
            "layout": _LAYOUT,
            "settings": asdict(self.settings),
            "shard_size": self.shard_size,
            "roots": [asdict(root) for root in self.roots],
            "shards": [{k: v for k, v in asdict(s).items() if v != ""} for s in self.shards],
        }

    def difference(self, other: Plan) -> str | None:
        """In words, how another plan differs from this one; None where it does not."""
        for field in fields(Settings):
            mine, its = getattr(self.settings, field.name), getattr(other.settings, field.name)
            if mine != its:
                return f"{field.name} was {mine!r} and is {its!r} now"
        if self.shard_size != other.shard_size:
            return f"the shard size was {self.shard_size} and is {other.shard_size} now"
        mine_labels = [root.label for root in self.roots]
        if mine_labels != [root.label for root in other.roots]:
            return "other folders were named"
        if self.shards == other.shards:
            return None
        before = {_content(shard): shard for shard in self.shards}
        now = {_content(shard): shard for shard in other.shards}
        changed = [shard for key, shard in before.items() if now.get(key) != shard]
        changed += [shard for key, shard in now.items() if key not in before]
        shown = ", ".join(sorted(dict.fromkeys(map(_described, changed)))[:_SHOWN])
        return f"{len(changed)} of its shards changed, appeared or are gone ({shown})"


def _is_sound(shard: Shard, roots: int) -> bool:
    """Whether a shard that was read from a file leads to no other place than it should."""
    numbers = (shard.root, shard.size, shard.mtime_ns, shard.count, shard.group)
    return (
        all(type(number) is int for number in numbers)
        and 0 <= shard.root < roots
        and shard.kind in ("names", "tar", "parquet")
        and _PLAIN.fullmatch(shard.name) is not None
        and re.fullmatch(r"[0-9a-f]{64}|", shard.names) is not None
        and not os.path.isabs(shard.path)
        and ".." not in shard.path.split("/")
    )


def _content(shard: Shard) -> tuple[str, int, str, int]:
    name = shard.path or shard.name
    return shard.kind, shard.root, name, shard.group


def _described(shard: Shard) -> str:
    return repr(shard.path) if shard.path else f"the list of images {shard.name}"


class ScoresFolder:
    """A folder of scores: where its files are.

    Args:
        path: the folder, which need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.books = self.path / BOOKS
        self.plan_file = self.books / "plan.json"
        self.claims = self.books / "claims"
        self.deaths = self.books / "deaths"

    def output(self, shard: Shard, plan: Plan) -> Path:
        """The file of scores of a shard."""
        return self.path / f"{shard.name}.{plan.settings.format}"

    def names_file(self, digest: str) -> Path:
        """The list of names with this SHA-256, each ended by a NUL."""
        return self.books / "names" / digest[:_DIGEST]

    def names(self, shard: Shard) -> list[str]:
        """The names of a shard of single files.

        Raises:
            DataError: the list is missing or was changed.
        """
        path = self.names_file(shard.names)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"Cannot read the list {str(path)!r}: {error.strerror}.") from error
        if hashlib.sha256(content).hexdigest() != shard.names:
            raise DataError(f"The list {str(path)!r} was changed since it was made.")
        return [os.fsdecode(name) for name in content.split(b"\0")[:-1]]

    def load(self) -> Plan:
        """The plan of this folder.

        Raises:
            DataError: there is none, or it is damaged or of another version's layout.
        """
        try:
            content = json.loads(self.plan_file.read_bytes())
            if content["layout"] != _LAYOUT:
                raise DataError(f"{str(self.path)!r} was made by another version of qmamba.")
            roots = tuple(Root(**root) for root in content["roots"])
            shards = tuple(Shard(**shard) for shard in content["shards"])
            if not all(_is_sound(shard, len(roots)) for shard in shards):
                raise ValueError("a shard is not sound")
            return Plan(Settings(**content["settings"]), content["shard_size"], roots, shards)
        except FileNotFoundError as error:
            raise DataError(
                f"{str(self.path)!r} is not a folder of scores: it has no"
                f" {BOOKS}/{self.plan_file.name}."
            ) from error
        except OSError as error:
            raise DataError(f"Cannot read {str(self.plan_file)!r}: {error.strerror}.") from error
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{str(self.plan_file)!r} is damaged; score into another folder."
            ) from error

    def save(self, plan: Plan) -> Plan:
        """Write the plan where there is none; the plan that is there then.

        Raises:
            DataError: the folder cannot be written, or has another plan.
        """
        make_folder(self.books)
        text = json.dumps(plan.to_json(), indent=1) + "\n"
        if not create_exclusively(self.plan_file, text.encode()):
            self.require(plan)
        return plan

    def require(self, plan: Plan) -> None:
        """Check that a plan is the one of this folder.

        Raises:
            DataError: it is another; the error says what differs.
        """
        difference = self.load().difference(plan)
        if difference is not None:
            raise DataError(
                f"{str(self.path)!r} holds the scores of another plan: {difference}. Give the same"
                " inputs and options, choose another folder, or put the old one aside with"
                " --force-plan."
            )

    def put_aside(self) -> Path:
        """Rename the folder, so that a new plan can take its place; returns the new path."""
        number = 1
        while True:
            aside = self.path.with_name(f"{self.path.name}.replaced-{number}")
            if not aside.exists():
                try:
                    return self.path.rename(aside)
                except OSError as error:
                    raise DataError(
                        f"Cannot rename {str(self.path)!r}: {error.strerror}."
                    ) from error
            number += 1


def make_plan(sources: Sources, settings: Settings, folder: ScoresFolder, shard_size: int) -> Plan:
    """List what there is to score and cut it into shards; lists of names are written to the folder.

    A tar file is a shard, and so is a row group of a Parquet file; single files are cut into lists
    of `shard_size`.

    Raises:
        DataError: there is nothing to score, a list cannot be written, or a Parquet file cannot be
            read.
    """
    # A list of names takes its number when it is complete.
    shards: list[Shard] = []
    waiting: dict[int, list[str]] = {}
    for found in sources:
        if found.is_tar:
            shards.append(_file_shard(found, sources.roots[found.root], "tar"))
        elif found.is_parquet:
            shards += _row_groups(found, sources.roots[found.root])
        else:
            names = waiting.setdefault(found.root, [])
            names.append(found.name)
            if len(names) == shard_size:
                shards.append(_list_shard(names, found.root, len(shards), folder))
                waiting[found.root] = []
    for root, names in waiting.items():
        if names:
            shards.append(_list_shard(names, root, len(shards), folder))
    if not shards:
        raise DataError("No images, tar or Parquet files found; --recursive looks into folders.")
    return Plan(settings, shard_size, tuple(sources.roots), tuple(_named(shards)))


def _list_shard(names: list[str], root: int, number: int, folder: ScoresFolder) -> Shard:
    content = b"".join(os.fsencode(name) + b"\0" for name in names)
    digest = hashlib.sha256(content).hexdigest()
    path = folder.names_file(digest)
    if not path.exists():
        make_folder(path.parent)
        with atomic_write(path) as stream:
            stream.write(content)
    return Shard("", "names", root, count=len(names), names=digest)


def _file_shard(found: Found, root: Root, kind: str) -> Shard:
    path = os.path.join(root.path, found.name)
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"Cannot read {path!r}: {error.strerror}.") from error
    return Shard("", kind, found.root, found.name, status.st_size, status.st_mtime_ns)


def _row_groups(found: Found, root: Root) -> Iterator[Shard]:
    require_arrow()
    import pyarrow.parquet

    shard = _file_shard(found, root, "parquet")
    path = os.path.join(root.path, found.name)
    try:
        metadata = pyarrow.parquet.read_metadata(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path!r} is not a Parquet file or is damaged.") from error
    for group in range(metadata.num_row_groups):
        values = {**asdict(shard), "group": group, "count": metadata.row_group(group).num_rows}
        yield Shard(**values)


def _named(shards: list[Shard]) -> Iterator[Shard]:
    """Shards with names: those of the tar files where there is nothing else, numbers otherwise."""
    stems = [_stem(shard.path) for shard in shards]
    if not (
        all(shard.kind == "tar" for shard in shards)
        and len({stem.lower() for stem in stems}) == len(stems)
        and all(map(_PLAIN.fullmatch, stems))
    ):
        digits = max(5, len(str(len(shards) - 1)))
        stems = [f"{number:0{digits}}" for number in range(len(shards))]
    for shard, stem in zip(shards, stems, strict=True):
        yield Shard(**{**asdict(shard), "name": stem})


def _stem(path: str) -> str:
    return re.sub(r"(\.tar)?\.[^.]*$", "", os.path.basename(path))


def key_of(root: Root, *parts: str) -> str:
    """The key of an image: the label of its root and the path below it, never absolute."""
    path = "/".join(filter(None, (root.label, *(part.replace(os.sep, "/") for part in parts))))
    return valid_text(re.sub(r"^(\.?/)+", "", path))
