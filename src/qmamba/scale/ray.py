"""Scoring with Ray Data: on this machine, or on a cluster that reads object stores.

Ray's own record of finished rows makes a second start go on where the first was stopped. Reading
and decoding errors become error rows here, because Ray does not repeat a batch whose function
raises.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qmamba.assess import Scorer
from qmamba.errors import ConfigError, DataError, ImageError, QMambaError
from qmamba.files import atomic_write, create_exclusively, make_folder
from qmamba.images import IMAGE_SUFFIXES
from qmamba.scale.plan import BOOKS, Settings
from qmamba.scale.rows import Row, error_row, scored_row, valid_text
from qmamba.scale.shard_file import arrow_schema
from qmamba.scale.sources import PARQUET_SUFFIX, TAR_SUFFIXES
from qmamba.scale.status import RAY_DONE, RAY_RECORD
from qmamba.scale.worker import Job

BATCH = 32
"""Images that an actor is given at a time; a death costs as many at most."""

_SPARE_SLOTS = 2
_BYTES_COLUMNS = ("bytes", "image", "content", *(suffix[1:] for suffix in sorted(IMAGE_SUFFIXES)))
_IDS = ("__key__", "uid", "key", "id", "image_id", "path")


class ScoreBatch:
    """Scores a batch of rows; made for ``ray.data.Dataset.map_batches`` with pyarrow batches.

    A row has the bytes of an image file in a column such as ``bytes``, ``image`` or, from
    ``read_webdataset(decoder=None)``, ``jpg``. The result has the columns of a file of scores and
    the column of the identifiers. One row comes back per row, with an error where there is no
    score; nothing is raised.

    Args:
        id_column: column of the identifiers, of which the keys are made.
        root: what a key leaves out at the front of an identifier.
        threads: threads of the network on the CPU.
        scorer: further arguments of :meth:`~qmamba.assess.Scorer.from_pretrained`.

    >>> dataset.map_batches(  # doctest: +SKIP
    ...     ScoreBatch, fn_constructor_kwargs={"id_column": "path"}, batch_size=32,
    ...     batch_format="pyarrow", compute=ray.data.ActorPoolStrategy(size=8), num_cpus=1)
    """

    def __init__(
        self, id_column: str = "path", root: str = "", threads: int = 1, **scorer: Any
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._scorer = Scorer.from_pretrained(scorer.pop("name_or_path", None), **scorer)
        self._id = id_column
        self._root = root

    def __call__(self, batch: Any) -> Any:
        """A pyarrow table of rows to a pyarrow table of scores."""
        import pyarrow

        entries = batch.to_pylist()
        views = (self._prepare(entry) for entry in entries)
        rows = [
            self._row(entry, result)
            for entry, result in zip(entries, self._scorer.score_prepared(views), strict=True)
        ]
        plain = pyarrow.schema(
            [
                (f.name, pyarrow.string() if pyarrow.types.is_dictionary(f.type) else f.type)
                for f in arrow_schema()
            ]
        )
        table = pyarrow.Table.from_pylist(rows, schema=plain)
        if self._id in table.column_names:
            return table.set_column(
                table.column_names.index(self._id), self._id, batch.column(self._id)
            )
        return table.append_column(self._id, batch.column(self._id))

    def _prepare(self, entry: Mapping[str, Any]) -> Any:
        content = _image_bytes(entry)
        if content is None:
            return ImageError("the row has no image")
        try:
            return self._scorer.prepare(content)
        except QMambaError as error:
            return error
        except Exception as error:
            # One image must not end the work on all the others, whatever it does.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            return ImageError(f"cannot prepare the image ({reason})")

    def _row(self, entry: Mapping[str, Any], result: Any) -> Row:
        key = valid_text(str(entry[self._id])).removeprefix(self._root).lstrip("/")
        uid = entry.get("uid")
        uid = uid if isinstance(uid, str) else None
        if isinstance(result, QMambaError):
            return error_row(key, uid, str(result), (), "")
        return scored_row(key, uid, result, ())


def _image_bytes(entry: Mapping[str, Any]) -> bytes | None:
    for name in _BYTES_COLUMNS:
        value = entry.get(name)
        if isinstance(value, dict):
            value = value.get("bytes")
        if isinstance(value, bytes):
            return value
    return None


def require_ray() -> None:
    """Check that Ray Data is there.

    Raises:
        ConfigError: it is not.
    """
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise ConfigError("--ray needs Ray; install it with pip install 'qmamba[ray]'.") from error


def score_with_ray(
    paths: Sequence[str],
    job: Job,
    settings: Settings,
    *,
    address: str = "local",
    actors: int = 1,
    blocks: int | None = None,
) -> int:
    """Score files, tar files or Parquet files into the folder of a job; the number of its rows.

    A second start with the same paths and settings goes on behind the rows that are finished. Give
    one run at most about 50 million images: Ray holds the identifiers of finished rows in memory.

    Args:
        paths: files or folders of one kind, here or in an object store (``s3://bucket/folder``).
            Samples of tar files are told apart by their ``__key__``, which must be unique.
        job: how they are scored and the folder, which must lie where all machines reach it.
        settings: those of the job's scorer.
        address: "local" for a Ray of this machine, or the address of a cluster.
        actors: number of actors that score; Ray needs two slots more.
        blocks: number of parts to divide the input into; None leaves it to Ray.

    Raises:
        ConfigError: Ray is missing.
        DataError: the folder has scores of other paths or settings, or Ray could not finish.
    """
    require_ray()
    # Ray reports its use over the network unless it is told not to, before it starts.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.checkpoint import CheckpointConfig

    folder = Path(job.folder).absolute()
    books = folder / BOOKS
    make_folder(books)
    read, id_column = _reader(paths)
    record = {
        "paths": list(paths),
        "id_column": id_column,
        "settings": asdict(settings),
    }
    _require_record(books / RAY_RECORD, record)
    if (books / RAY_DONE).exists():
        return int(json.loads((books / RAY_DONE).read_bytes())["rows"])
    try:
        if not ray.is_initialized():
            _start(ray, address, actors)
        context = DataContext.get_current()
        context.checkpoint_config = CheckpointConfig(
            id_column=id_column,
            checkpoint_path=str(books / "ray"),
            # Without it a second start would score everything again, beside the rows there are.
            delete_checkpoint_on_success=False,
        )
        context.enable_progress_bars = False
        on_gpu = job.device.startswith("cuda")
        read(blocks).map_batches(
            ScoreBatch,
            fn_constructor_kwargs={
                "id_column": id_column,
                "root": _root(paths) if id_column == "path" else "",
                "name_or_path": job.model,
                "tuned": job.tuned,
                "policy": job.policy,
                "precision": job.precision,
                "device": job.device,
                "max_pixels": job.max_pixels,
                "batch_images": job.batch_images,
            },
            batch_size=BATCH,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=actors),
            num_cpus=1,
            num_gpus=1 if on_gpu else 0,
        ).write_parquet(str(folder), compression="zstd")
    except QMambaError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"Ray could not finish ({type(error).__name__}: {reason}); the same command goes on"
            " with what is done."
        ) from error
    rows = count_rows(folder)
    with atomic_write(books / RAY_DONE, "w") as stream:
        json.dump({"rows": rows}, stream)
    return rows


def count_rows(folder: Path) -> int:
    """Rows of all Parquet files of a folder."""
    import pyarrow.parquet

    return sum(
        pyarrow.parquet.read_metadata(path).num_rows for path in sorted(folder.glob("*.parquet"))
    )


def _start(ray: Any, address: str, actors: int) -> None:
    if address != "local":
        ray.init(address=address, log_to_driver=False)
        return
    # A filter of finished rows and a reader hold a slot each while the actors work.
    slots = max(os.cpu_count() or 1, actors + 2 * _SPARE_SLOTS)
    ray.init(num_cpus=slots, include_dashboard=False, log_to_driver=False)


def _reader(paths: Sequence[str]) -> tuple[Any, str]:
    """How Ray reads the paths, and the column of the identifiers."""
    import ray.data

    kinds = {_kind(path) for path in paths}
    if len(kinds) != 1:
        raise ConfigError(
            "--ray reads tar files, Parquet files or folders of images; give paths of one kind."
        )
    given = [path if "://" in path else os.path.abspath(path) for path in paths]
    (kind,) = kinds
    if kind == "tar":

        def tars(blocks: int | None) -> Any:
            return ray.data.read_webdataset(given, decoder=None, override_num_blocks=blocks)

        return tars, "__key__"
    if kind == "parquet":
        import pyarrow.dataset

        names = pyarrow.dataset.dataset(given[0], format="parquet").schema.names
        column = next((name for name in _IDS if name in names), None)
        if column is None:
            raise ConfigError(
                f"{paths[0]!r} has no column of identifiers ({', '.join(_IDS)}), which --ray needs;"
                " --shards does without."
            )

        def tables(blocks: int | None) -> Any:
            return ray.data.read_parquet(given, override_num_blocks=blocks)

        return tables, column

    def files(blocks: int | None) -> Any:
        return ray.data.read_binary_files(
            given,
            include_paths=True,
            file_extensions=sorted(suffix[1:] for suffix in IMAGE_SUFFIXES),
            ignore_missing_paths=True,
            override_num_blocks=blocks,
        )

    return files, "path"


def _kind(path: str) -> str:
    lower = path.lower()
    if lower.endswith(TAR_SUFFIXES):
        return "tar"
    return "parquet" if lower.endswith(PARQUET_SUFFIX) else "files"


def _root(paths: Sequence[str]) -> str:
    """What all paths of files begin with, as Ray gives them: without the name of a protocol."""
    given = [path.partition("://")[2] if "://" in path else os.path.abspath(path) for path in paths]
    folders = [path if not os.path.isfile(path) else os.path.dirname(path) for path in given]
    return os.path.commonpath(folders) + "/" if folders else ""


def local_root(paths: Sequence[str]) -> str | None:
    """The folder that the keys of images lie under; None for archives and object stores."""
    if any("://" in path or _kind(path) != "files" for path in paths):
        return None
    return _root(paths)


def _require_record(path: Path, record: dict[str, Any]) -> None:
    if create_exclusively(path, json.dumps(record, indent=1).encode()):
        return
    try:
        before = json.loads(path.read_bytes())
        changed = [key for key in record if before[key] != record[key]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{str(path)!r} is damaged; score into another folder.") from error
    if changed:
        raise DataError(
            f"{str(path.parent.parent)!r} holds scores of other {changed[0]}: they were"
            f" {before[changed[0]]!r}; give the same, or score into another folder."
        )
