"""The images of a shard, one after the other: from a list of files, a tar file, or Parquet rows."""

from __future__ import annotations

import json
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from qmamba.errors import DataError
from qmamba.scale.plan import Plan, ScoresFolder, Shard, key_of
from qmamba.scale.rows import valid_text
from qmamba.scale.sources import Root

MOST_BYTES = 1 << 30
"""Bytes of an image file in an archive that are read at most."""

DUPLICATE = "duplicate key"

_MOST_JSON = 1 << 20
_BATCH = 64
_IMAGE_COLUMNS = ("image", "bytes", "jpg", "jpeg", "png", "webp", "image_bytes", "content")
_PATH_COLUMNS = ("path", "image_path", "file_name", "filename", "file", "image")
_KEY_COLUMNS = ("__key__", "key", "id", "image_id")
_UID_COLUMN = "uid"


@dataclass(frozen=True)
class Member:
    """One image before it is decoded."""

    key: str
    """What it is known by: its path below the root, or shard and name in the shard."""
    source: str | bytes
    """Its path, or the bytes of its file."""
    error: str | None = None
    """Why it cannot be read, where that is known already."""
    notes: tuple[str, ...] = ()
    """What the reader of its score should know."""
    uid: str | None = None
    """Its identifier in the data set, where the data set gives one."""


class TarEntry(NamedTuple):
    """A file in a tar file."""

    info: tarfile.TarInfo
    content: bytes | None
    """None for links and devices, and beyond :data:`MOST_BYTES`."""


class ShardGone(DataError):
    """A shard is not what it was when the plan was made, so its rows would not be those planned."""


def members(
    shard: Shard, plan: Plan, folder: ScoresFolder, roots: tuple[Root, ...] | None = None
) -> Iterator[Member]:
    """The images of a shard, each key once, in an order that never changes.

    Args:
        shard: one of the plan's.
        plan: the plan.
        folder: where lists of names lie.
        roots: where the data lie now; those of the plan where None.

    Raises:
        ShardGone: the tar or Parquet file is missing, unreadable or was changed since the plan was
            made; also after the last image, where it changed meanwhile.
        DataError: a list of names was changed.
    """
    root = (roots or plan.roots)[shard.root]
    if shard.kind == "names":
        found = _files(folder.names(shard), root)
    else:
        _require_unchanged(shard, root)
        found = (_tar if shard.kind == "tar" else _parquet)(shard, root)
    yield from _distinct(found)
    if shard.kind != "names":
        _require_unchanged(shard, root)


def tar_samples(path: str) -> Iterator[list[TarEntry]]:
    """The samples of a tar file: neighbors whose names are the same up to the first dot.

    Raises:
        tarfile.TarError, EOFError, zlib.error: the file is damaged or cut short; what came before
            that has been given.
        OSError: the file cannot be read, or compressed data are damaged.
    """
    group: list[TarEntry] = []
    try:
        for entry in _tar_entries(path):
            if group and sample_stem(entry.info.name) != sample_stem(group[0].info.name):
                yield group
                group = []
            group.append(entry)
    except (tarfile.TarError, EOFError, zlib.error, OSError):
        if group:
            yield group
        raise
    if group:
        yield group


def _tar_entries(path: str) -> Iterator[TarEntry]:
    with tarfile.open(path, "r:*", encoding="utf-8", errors="surrogateescape") as archive:
        for info in archive:
            # The archive would keep all of them.
            archive.members = []  # type: ignore[attr-defined]
            if info.isdir():
                continue
            content = None
            if info.isreg() and info.size <= MOST_BYTES:
                stream = archive.extractfile(info)
                content = b"" if stream is None else stream.read()
                if len(content) < info.size:
                    raise tarfile.ReadError("unexpected end of data")
            yield TarEntry(info, content)
        # The reader takes a header that it does not understand for the end.
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        if any(archive.fileobj.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError("it goes on with something that is no member")


def sample_stem(name: str) -> str:
    """A member's name up to the first dot of its last part, which files of one sample share."""
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.partition('.')[0]}"


def is_image_name(name: str) -> bool:
    """Whether a name ends as those of images do."""
    from qmamba.images import IMAGE_SUFFIXES

    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _require_unchanged(shard: Shard, root: Root) -> None:
    path = os.path.join(root.path, shard.path)
    try:
        status = os.stat(path)
    except OSError as error:
        raise ShardGone(f"Cannot read {path!r}: {error.strerror}.") from error
    if (status.st_size, status.st_mtime_ns) != (shard.size, shard.mtime_ns):
        raise ShardGone(
            f"{path!r} was changed since the plan was made; put the scores aside with --force-plan."
        )


def _distinct(found: Iterator[Member]) -> Iterator[Member]:
    seen: set[str] = set()
    for member in found:
        if member.key in seen:
            number = 2
            while f"{member.key}#{number}" in seen:
                number += 1
            key = f"{member.key}#{number}"
            member = replace(member, key=key, notes=(*member.notes, DUPLICATE))
        seen.add(member.key)
        yield member


def _files(names: list[str], root: Root) -> Iterator[Member]:
    for name in names:
        yield Member(key_of(root, name), os.path.join(root.path, name))


def _tar(shard: Shard, root: Root) -> Iterator[Member]:
    path = os.path.join(root.path, shard.path)
    count = 0
    try:
        for sample in tar_samples(path):
            found = [entry for entry in sample if is_image_name(entry.info.name)]
            uid = next(filter(None, map(_uid, sample)), None) if found else None
            for info, content in found:
                error = None if content is not None else _no_content(info)
                key = member_key(root, shard.path, info.name)
                yield Member(key, content or b"", error, uid=uid)
                count += 1
    except (tarfile.TarError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        text = f"the tar file is damaged or cut short after {count} images ({reason})"
        yield Member(key_of(root, shard.path), b"", text)
    except OSError as error:
        # Archives under compression say so that their data are damaged.
        if error.errno is None:
            text = f"the tar file is damaged or cut short after {count} images ({error})"
            yield Member(key_of(root, shard.path), b"", text)
        else:
            raise ShardGone(f"Cannot read {path!r}: {error.strerror}.") from error


def member_key(root: Root, path: str, name: str) -> str:
    """The key of a member of a tar file, before duplicates are told apart."""
    return key_of(root, path, name.lstrip("./"))


def _no_content(info: tarfile.TarInfo) -> str:
    if info.isreg():
        return f"it has {info.size} bytes and the limit is {MOST_BYTES} in an archive"
    return "it is a link or a device in the tar file, not a file"


def _uid(entry: TarEntry) -> str | None:
    """The identifier that the JSON file of a sample gives, as in DataComp."""
    content = entry.content
    if not entry.info.name.endswith(".json") or content is None or len(content) > _MOST_JSON:
        return None
    try:
        uid = json.loads(content)["uid"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return valid_text(uid) if isinstance(uid, str) else None


def _parquet(shard: Shard, root: Root) -> Iterator[Member]:
    import pyarrow
    import pyarrow.parquet

    path = os.path.join(root.path, shard.path)
    folder = os.path.dirname(path)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            take, column = _image_of(schema, path)
            key = next((name for name in _KEY_COLUMNS if name in schema.names), None)
            uid = _UID_COLUMN if _UID_COLUMN in schema.names else None
            columns = list(filter(None, dict.fromkeys((column, key, uid))))
            start = sum(file.metadata.row_group(i).num_rows for i in range(shard.group))
            batches = file.iter_batches(_BATCH, row_groups=[shard.group], columns=columns)
            row = start
            for batch in batches:
                for values in batch.to_pylist():
                    name = values.get(key) if key else None
                    own = valid_text(str(name)) if name is not None else str(row)
                    source = take(values[column], folder)
                    yield Member(
                        key_of(root, shard.path, own),
                        source or b"",
                        None if source is not None else "the row has no image",
                        uid=None if uid is None or values[uid] is None else str(values[uid]),
                    )
                    row += 1
    except OSError as error:
        raise ShardGone(f"Cannot read {path!r}: {error}.") from error
    except pyarrow.ArrowException as error:
        reason = " ".join(str(error).split())[:200]
        yield Member(key_of(root, shard.path), b"", f"the Parquet file is damaged ({reason})")


def _image_of(schema: Any, path: str) -> tuple[Callable[[Any, str], str | bytes | None], str]:
    """How an image is taken from a value, and of which column."""
    import pyarrow

    def is_binary(kind: Any) -> bool:
        return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)

    for name in _IMAGE_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if is_binary(kind):
                return lambda value, folder: value, name
            if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                return _hub_image, name
    for name in _PATH_COLUMNS:
        if name in schema.names and pyarrow.types.is_string(schema.field(name).type):
            return lambda value, folder: _local(value, folder), name
    raise ShardGone(
        f"{path!r} has no column of images; one of {', '.join(_IMAGE_COLUMNS)} must hold the bytes"
        f" of image files, or one of {', '.join(_PATH_COLUMNS)} their paths."
    )


def _hub_image(value: Any, folder: str) -> str | bytes | None:
    """An image of the Hugging Face data sets: its bytes or, where it has none, its path."""
    if value is None:
        return None
    content = value["bytes"]
    return content if content is not None else _local(value.get("path"), folder)


def _local(value: str | None, folder: str) -> str | None:
    return None if value is None else os.path.join(folder, value)
