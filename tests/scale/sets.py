"""Small data sets with everything in them that large ones have."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from qmamba.scale import Job, Plan, ScoresFolder, Settings, Sources, make_plan
from qmamba.scale.shard_file import Format
from tests.assess.samples import encoded, write_image

Entry = tuple[str, bytes]


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_tar(path: Path, entries: Iterable[Entry]) -> Path:
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape") as archive:
        for name, content in entries:
            add(archive, name, content)
    return path


def samples(number: int, start: int = 0) -> list[Entry]:
    """Images of 40 x 40 with text and an identifier, as in a webdataset."""
    entries: list[Entry] = []
    for index in range(start, start + number):
        entries.append((f"{index:06}.png", encoded(40, 40, seed=index % 7)))
        entries.append((f"{index:06}.json", json.dumps({"uid": f"{index:032x}"}).encode()))
        entries.append((f"{index:06}.txt", b"a caption"))
    return entries


HOSTILE: list[Entry] = [
    ("empty.png", b""),
    ("cut.png", encoded(40, 40)[:90]),
    ("text.jpg", b"not an image"),
    ("folder/inside.png", encoded(40, 40)),
    ("../outside.png", encoded(40, 40)),
    ("/absolute.png", encoded(40, 40)),
    ("twice.png", encoded(40, 40)),
    ("twice.png", encoded(40, 40, seed=1)),
    ("line\nend.png", encoded(40, 40)),
    (b"latin-\xe9.png".decode("utf-8", "surrogateescape"), encoded(40, 40)),
]
"""What tar files of the web hold."""


def write_set(folder: Path, tars: int = 2, each: int = 12) -> Path:
    """A folder with tar files, single images and hostile members of both."""
    folder.mkdir()
    for number in range(tars):
        write_tar(folder / f"{number:05}.tar", samples(each, number * each))
    write_tar(folder / "hostile.tar", HOSTILE)
    for number in range(7):
        write_image(folder / f"single{number}.png", 40, 40, seed=number)
    (folder / "nothing.png").touch()
    return folder


def make_job(scores: Path, weights: Path, **options: object) -> Job:
    return Job(str(scores), model=str(weights), **options)  # type: ignore[arg-type]


def planned(
    job: Job, sources: Iterable[Path], *, size: int = 4, format: Format = "parquet"
) -> Plan:
    """The plan of a job, written to its folder."""
    folder = ScoresFolder(job.folder)
    found = Sources([str(path) for path in sources], without=folder.path)
    return folder.save(make_plan(found, Settings.of(job.make_scorer(), format), folder, size))


def contents(scores: Path) -> dict[str, bytes]:
    """The files of scores by name."""
    found = [p for p in sorted(scores.iterdir()) if p.is_file() and not p.name.startswith(".")]
    return {path.name: path.read_bytes() for path in found}
