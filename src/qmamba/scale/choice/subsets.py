"""Writing a subset: lists of keys, arrays of identifiers, and new tar files.

Images are copied byte by byte and never encoded anew.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from qmamba.errors import ConfigError, DataError
from qmamba.files import atomic_write
from qmamba.locks import owned_folder, owned_output
from qmamba.scale.choice.select import Selection
from qmamba.scale.members import is_image_name, member_key, members, tar_samples
from qmamba.scale.plan import Plan, ScoresFolder, Shard
from qmamba.scale.shard_file import read_columns, require_arrow
from qmamba.scale.sources import Root

LIST_SUFFIXES = (".txt", ".jsonl", ".parquet", ".npy")
"""Endings of the files that a subset can be written to; anything else is a folder of tar files."""

DEFAULT_TAR_SAMPLES = 10_000
"""Samples in a new tar file."""


def write_list(selections: Iterable[Selection], path: Path) -> int:
    """Write the keys of a subset; the number of images.

    ``.txt``: one key per line. ``.jsonl``: key, uid, score and raw of each. ``.parquet``: the same
    as columns. ``.npy``: the identifiers of DataComp, a sorted array of pairs of uint64.

    Raises:
        ConfigError: the ending is none of :data:`LIST_SUFFIXES`.
        DataError: the file cannot be written, a key holds a line end and the file is ``.txt``, or
            images have no identifier of 32 hexadecimal digits and the file is ``.npy``.
    """
    kinds = {".txt": _text, ".jsonl": _lines, ".parquet": _parquet, ".npy": _identifiers}
    write = kinds.get(path.suffix.lower())
    if write is None:
        raise ConfigError(f"The output {str(path)!r} must end in {', '.join(LIST_SUFFIXES)}.")
    with owned_output(path), atomic_write(path) as stream:
        return write(_kept(selections), stream)


def _kept(selections: Iterable[Selection]) -> Iterator[dict[str, object]]:
    for selection in selections:
        table = read_columns(selection.file, ("key", "uid", "score", "raw"))
        for index in np.flatnonzero(selection.rows):
            yield {name: column[index] for name, column in table.items()}


def _text(rows: Iterable[dict[str, object]], stream: BinaryIO) -> int:
    count = 0
    for row in rows:
        key = str(row["key"])
        if "\n" in key or "\r" in key:
            raise DataError(f"The key {key!r} holds a line end; write a .jsonl or .parquet file.")
        stream.write(key.encode() + b"\n")
        count += 1
    return count


def _lines(rows: Iterable[dict[str, object]], stream: BinaryIO) -> int:
    count = 0
    for row in rows:
        stream.write(json.dumps(row).encode() + b"\n")
        count += 1
    return count


def _parquet(rows: Iterable[dict[str, object]], stream: BinaryIO) -> int:
    require_arrow()
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        [
            ("key", pyarrow.string()),
            ("uid", pyarrow.string()),
            ("score", pyarrow.float32()),
            ("raw", pyarrow.float32()),
        ]
    )
    count = 0
    with pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        for batch in _batches(rows, 100_000):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _batches(rows: Iterable[dict[str, object]], size: int) -> Iterator[list[dict[str, object]]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _identifiers(rows: Iterable[dict[str, object]], stream: BinaryIO) -> int:
    pairs = []
    for row in rows:
        uid = str(row["uid"] or "")
        try:
            if len(uid) != 32:
                raise ValueError
            pairs.append((int(uid[:16], 16), int(uid[16:], 16)))
        except ValueError:
            raise DataError(
                f"The image {row['key']!r} has no identifier of 32 hexadecimal digits (uid), which"
                " arrays of DataComp hold; write a .txt, .jsonl or .parquet file."
            ) from None
    array = np.array(pairs, np.dtype("u8,u8"))
    array.sort()
    np.save(stream, array)
    return len(array)


def write_tars(
    selections: Iterable[Selection],
    scores: str | os.PathLike[str],
    output: Path,
    *,
    samples: int = DEFAULT_TAR_SAMPLES,
    roots: Sequence[Root] | None = None,
) -> int:
    """Copy the images of a subset to new tar files ``00000.tar``, ...; the number of images.

    From a tar file the whole sample comes along: all neighbors whose names are the same up to the
    first dot, with the names, times and contents they have. Other images become members named by
    their keys.

    Args:
        selections: from :func:`~qmamba.scale.choice.select.select`.
        scores: the folder of scores.
        output: folder to make; it must be empty or missing.
        samples: number of samples in a tar file.
        roots: where the data lie now; those of the plan where None.

    Raises:
        DataError: the data were changed since they were scored, or the folder is not empty or
            cannot be written.
    """
    folder = ScoresFolder(scores)
    plan = folder.load()
    shards = {folder.output(shard, plan): shard for shard in plan.shards}
    with owned_folder(output):
        if any(not name.startswith(".") for name in os.listdir(output)):
            raise DataError(f"{str(output)!r} is not empty; name a new folder.")
        count = number = 0
        found = _chosen_samples(selections, shards, plan, folder, tuple(roots or plan.roots))
        first = next(found, None)
        while first is not None:
            with (
                atomic_write(output / f"{number:05}.tar") as stream,
                tarfile.open(
                    fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape"
                ) as archive,
            ):
                held = 0
                while first is not None and held < samples:
                    images, entries = first
                    for info, content in entries:
                        _add(archive, info, content)
                    count += images
                    held += 1
                    first = next(found, None)
            number += 1
    return count


def _add(archive: tarfile.TarFile, info: tarfile.TarInfo, content: bytes) -> None:
    import io

    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _chosen_samples(
    selections: Iterable[Selection],
    shards: dict[Path, Shard],
    plan: Plan,
    folder: ScoresFolder,
    roots: tuple[Root, ...],
) -> Iterator[tuple[int, list[tuple[tarfile.TarInfo, bytes]]]]:
    """The number of images and the files of each sample that holds an image to keep."""
    for selection in selections:
        if not selection.rows.any():
            continue
        shard = shards[selection.file]
        if shard.kind != "tar":
            yield from _single_files(selection, shard, plan, folder, roots)
            continue
        kept = iter(selection.rows.tolist())
        root = roots[shard.root]
        path = os.path.join(root.path, shard.path)
        keys = iter(read_columns(selection.file, ("key",))["key"])
        try:
            for sample in tar_samples(path):
                images = 0
                for entry in sample:
                    if is_image_name(entry.info.name):
                        key = next(keys, "")
                        if not key.startswith(member_key(root, shard.path, entry.info.name)):
                            raise DataError(f"{path!r} was changed since it was scored.")
                        images += next(kept, False)
                if images:
                    files = [(e.info, e.content) for e in sample if e.content is not None]
                    yield images, files
        except (tarfile.TarError, EOFError, OSError) as error:
            # A damaged tar file has a row that says so, and no image to keep behind it.
            if any(kept):
                raise DataError(f"Cannot read {path!r}: {error}.") from error


def _single_files(
    selection: Selection,
    shard: Shard,
    plan: Plan,
    folder: ScoresFolder,
    roots: tuple[Root, ...],
) -> Iterator[tuple[int, list[tuple[tarfile.TarInfo, bytes]]]]:
    for member, kept in zip(
        members(shard, plan, folder, roots), selection.rows.tolist(), strict=False
    ):
        if not kept:
            continue
        content = member.source
        if isinstance(content, str):
            try:
                content = Path(content).read_bytes()
            except OSError as error:
                raise DataError(f"Cannot read {str(content)!r}: {error.strerror}.") from error
        yield 1, [(tarfile.TarInfo(member.key), content)]
