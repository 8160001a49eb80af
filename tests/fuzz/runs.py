"""Tampered folders of training runs: each resumes, or is named in one sentence and left as it is.

A short run is stopped half-way and its folder changed at random: bytes of a file, fields and
tensors of the checkpoint, the record, the log, or another thing in a file's place. Then the run is
resumed. What counts as a fault: another exception than one of ours, a message that is no sentence,
or a file of a refused folder that has changed.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qmamba.errors import QMambaError
from qmamba.training import QualityTask, TrainingOptions
from qmamba.training.quality.run import train_quality
from tests.training.samples import quality_task, rated, small_network, small_options

FOLDERS = 200
"""Folders of a full run."""
FILES = ("checkpoint.pt", "options.json", "log.jsonl")

_VALUES: tuple[Any, ...] = (
    None, True, -1, 2**70, float("nan"), "text", [], {}, {"a": 1}, (1, 2, 3),
    torch.tensor([float("nan")]), torch.zeros(2, 2), torch.zeros(1).expand(10**6),
    torch.eye(3).to_sparse(), torch.zeros(3, dtype=torch.int8),
)  # fmt: skip


class Fuzzer:
    """A run that was stopped half-way, and copies of its folder.

    Args:
        folder: where all of it lies.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._task: QualityTask = quality_task(rated(folder / "images"), crop_size=32)
        self._options: TrainingOptions = small_options(steps=4, checkpoint_every=2, ema_decay=0.9)
        self._stopped = folder / "stopped"
        self._train(self._stopped, resume=False, fail_at=3)

    def _train(self, folder: Path, *, resume: bool, fail_at: int | None = None) -> None:
        def stop(progress: Any) -> None:
            if progress.step == fail_at:
                raise KeyboardInterrupt

        try:
            train_quality(
                small_network(), self._task, self._options, folder,
                name="fuzz", resume=resume, report=stop,
            )  # fmt: skip
        except KeyboardInterrupt:
            assert fail_at is not None

    def trial(self, seed: int) -> str | None:
        """What is wrong with how one tampered folder is treated; None if nothing is."""
        rng = random.Random(seed)
        folder = self._folder / "tampered"
        shutil.copytree(self._stopped, folder, symlinks=True)
        try:
            what = rng.choice(CHANGES)(rng, folder)
            before = _content(folder)
            try:
                self._train(folder, resume=True)
            except QMambaError as error:
                text = str(error)
                if not text[:1].isupper() or not text.endswith(".") or len(text) > 2000:
                    return f"{what}: no sentence: {text[:300]!r}"
                if _content(folder) != before:
                    return f"{what}: refused, and a file has changed"
            except Exception as error:
                return f"{what}: {type(error).__name__}: {str(error)[:300]}"
        finally:
            shutil.rmtree(folder)
        return None


def _content(folder: Path) -> dict[str, bytes | str]:
    return {
        path.name: path.read_bytes() if path.is_file() else "no file"
        for path in sorted(folder.iterdir())
        if path.name in FILES
    }


def _flip(rng: random.Random, folder: Path) -> str:
    path = folder / rng.choice(FILES)
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 3, 50])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)
    return f"bytes of {path.name}"


def _cut(rng: random.Random, folder: Path) -> str:
    path = folder / rng.choice(FILES)
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])
    return f"{path.name} cut"


def _replace(rng: random.Random, folder: Path) -> str:
    path = folder / rng.choice(FILES)
    path.unlink()
    kind = rng.choice(["folder", "link", "deep", "binary", "empty", "gone"])
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(folder / "elsewhere")
    elif kind != "gone":
        path.write_bytes(
            {"deep": b"[" * 100_000, "binary": bytes(range(256)) * 9, "empty": b""}[kind]
        )
    return f"{path.name} became {kind}"


def _field(rng: random.Random, folder: Path) -> str:
    path = folder / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    where, names = content, []
    while True:
        if isinstance(where, dict) and where:
            name: Any = rng.choice(sorted(where, key=repr))
        elif isinstance(where, list) and where:
            name = rng.randrange(len(where))
        else:
            break
        names.append(str(name))
        if rng.random() < 0.4 or not isinstance(where[name], dict | list) or not where[name]:
            if rng.random() < 0.3:
                del where[name]
            else:
                where[name] = rng.choice(_VALUES)
            break
        where = where[name]
    torch.save(content if rng.random() < 0.95 else rng.choice(_VALUES), path)
    return f"field {'.'.join(names)[:80]}"


def _record(rng: random.Random, folder: Path) -> str:
    path = folder / "options.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    name = rng.choice(sorted(record))
    if rng.random() < 0.3:
        del record[name]
    else:
        record[name] = rng.choice([None, -1, "text", [], {}, 1e308])
    path.write_text(json.dumps(record), encoding="utf-8")
    return f"record {name}"


def _line(rng: random.Random, folder: Path) -> str:
    path = folder / "log.jsonl"
    line = rng.choice(['{"step": null}', '{"step": "a"}', "[1]", "{", '{"step": 1e400}', "\x00"])
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    return f"log line {line!r}"


CHANGES: tuple[Callable[[random.Random, Path], str], ...] = (
    _flip, _cut, _replace, _field, _field, _record, _line,
)  # fmt: skip


def run(seconds: float, seed: int, folders: int = FOLDERS) -> int:
    """Tamper with folders until there were enough or the time is up; the number of faults."""
    end, faults, done = time.monotonic() + seconds, 0, 0
    with tempfile.TemporaryDirectory() as name:
        fuzzer = Fuzzer(Path(name))
        while done < folders and time.monotonic() < end:
            fault = fuzzer.trial(seed + done)
            if fault is not None:
                faults += 1
                print(f"seed {seed + done}: {fault}", file=sys.stderr, flush=True)
            done += 1
    print(f"{done} folders from seed {seed}, {faults} faults")
    return faults
