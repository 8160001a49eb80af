"""Scoring at scale: what a core does, what processes and fewer views gain, memory, and planning.

Parts: `profile` (seconds per image of reading, decoding, cutting and the network, on one thread),
`throughput` (whole commands in turns, as ratios to `qmamba score -o FILE` in fp32), `memory` (peak
at several numbers of images), `planning` (a million names), and `run`: a set of many files in tar
shards, scored with kills in between and checked row by row. From `profile` and `run` follows what
10^9 images would cost. Images are crops of the shipped examples, 512 x 512 JPEG.

Memory and planning do not mind other load. The others want a quiet machine; `--part generate
--data FOLDER` makes the images of `run` beforehand, in tar shards that `--data FOLDER` then takes:

    python -m benchmarks.scale --part memory planning -o benchmarks/results/scale.json
    python -m benchmarks.scale --part generate --files 20000 --data FOLDER
    python -m benchmarks.scale --part profile throughput run --data FOLDER -o ...  # 10 minutes

`python -m benchmarks.render` then puts all of them into docs/performance.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageEnhance

from benchmarks.measure import write

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SIDE = 512
MODEL = "qmamba-nano-biq2021"
PER_TAR = 1000


def images(number: int, seed: int = 0) -> Iterator[bytes]:
    """JPEG files: crops of the examples at several scales, brightness and quality."""
    sources = [Image.open(path).convert("RGB") for path in sorted(EXAMPLES.glob("*.jpg"))]
    rng = random.Random(seed)
    for _ in range(number):
        source = rng.choice(sources)
        side = rng.randint(min(source.size) // 2, min(source.size))
        left, top = (rng.randint(0, length - side) for length in source.size)
        crop = source.resize((SIDE, SIDE), box=(left, top, left + side, top + side))
        stream = io.BytesIO()
        bright = ImageEnhance.Brightness(crop).enhance(rng.uniform(0.6, 1.3))
        bright.save(stream, "JPEG", quality=rng.randint(60, 95))
        yield stream.getvalue()


def write_files(folder: Path, number: int) -> None:
    folder.mkdir(parents=True)
    for index, content in enumerate(images(number)):
        (folder / f"{index:06}.jpg").write_bytes(content)


def write_tars(folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = images(number)
    for first in range(0, number, PER_TAR):
        with tarfile.open(folder / f"{first // PER_TAR:05}.tar", "w") as archive:
            for index in range(first, min(first + PER_TAR, number)):
                data = next(content)
                info = tarfile.TarInfo(f"{index:09}.jpg")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def generate(data: Path, number: int) -> dict[str, Any]:
    """Make the tar shards of `run`, which takes longer than scoring them."""
    write_tars(data, number)
    size = sum(path.stat().st_size for path in data.glob("*.tar"))
    return {"images": number, "bytes_per_image": size / number}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "qmamba", *map(str, arguments)]


def timed(arguments: list[str]) -> tuple[float, float, float]:
    """Seconds, processor seconds of all its processes, and peak megabytes of the largest."""
    started = time.perf_counter()
    with subprocess.Popen(arguments, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        message = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"`{' '.join(arguments)}` ended with {process.returncode}: {message}")
    processor = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - started, processor, usage.ru_maxrss / 1024


def profile(folder: Path, number: int, rounds: int) -> dict[str, Any]:
    """Processor milliseconds per image of each step on one thread; medians, in turns.

    Processor time and not that of the clock, so that other work on the machine matters less.
    """
    from qmamba.assess import Scorer, parse_policy
    from qmamba.images import read_draft, read_image

    torch.set_num_threads(1)
    write_files(folder / "profile", number)
    paths = sorted((folder / "profile").iterdir())
    rows: dict[str, list[float]] = {}

    def step(name: str, work: Callable[[], object]) -> None:
        started = time.process_time()
        work()
        rows.setdefault(name, []).append(1e3 * (time.process_time() - started) / number)

    default = Scorer.from_pretrained(MODEL, precision="int8")
    plain = Scorer.from_pretrained(MODEL)
    fast = Scorer.from_pretrained(MODEL, precision="int8", policy="fast")
    half = Scorer.from_pretrained(MODEL, precision="bf16")
    shared = fast.with_batch_images(8)
    side = getattr(parse_policy("fast", default.policy), "draft_side", None) or SIDE
    scorers = {"ten crops": default, "fast": fast}
    views = {name: [s.prepare(path) for path in paths] for name, s in scorers.items()}
    for _ in range(rounds):
        step("read", lambda: [path.read_bytes() for path in paths])
        step("read and decode", lambda: [read_image(path) for path in paths])
        step("read and decode, draft", lambda: [read_draft(path, side) for path in paths])
        step("views, ten crops", lambda: [default.prepare(path) for path in paths])
        step("views, fast", lambda: [fast.prepare(path) for path in paths])
        step("network fp32, ten crops", lambda: list(plain.score_prepared(views["ten crops"])))
        step("network bf16, ten crops", lambda: list(half.score_prepared(views["ten crops"])))
        step("network int8, ten crops", lambda: list(default.score_prepared(views["ten crops"])))
        step("network int8, fast", lambda: list(fast.score_prepared(views["fast"])))
        step("network int8, fast, 8 share", lambda: list(shared.score_prepared(views["fast"])))
        step("all, fp32, ten crops", lambda: list(plain(list(map(str, paths)))))
        step("all, int8, ten crops", lambda: list(default(list(map(str, paths)))))
        step("all, int8, fast", lambda: list(fast(list(map(str, paths)))))
    medians = {name: statistics.median(values) for name, values in rows.items()}
    return {"images": number, "rounds": rounds, "processor_milliseconds_per_image": medians}


def throughput(folder: Path, number: int, rounds: int) -> dict[str, Any]:
    """Images per second behind the start, which is measured with one image each."""
    write_files(folder / "throughput", number)
    write_files(folder / "one", 1)
    cores = str(len(os.sched_getaffinity(0)))
    shards = ["--shards", "--processes", cores, "--shard-size", str(max(1, number // 8))]
    int8 = ["--precision", "int8"]
    ways: dict[str, list[str]] = {
        "one process, fp32": [],
        "one process, int8": int8,
        "shards, int8": [*shards, *int8],
        "shards, int8, fast": [*shards, *int8, "--policy", "fast"],
        "shards, int8, fast, 8 share a call": [
            *(*shards, *int8),
            *("--policy", "fast", "--batch-images", "8"),
        ],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for place, (name, options) in enumerate(ways.items()):
            spent = []
            for source in ("throughput", "one"):
                suffix = "" if "--shards" in options else ".csv"
                output = folder / f"out-{turn}-{place}-{source}{suffix}"
                arguments = command("score", folder / source, "-o", output, "--model", MODEL)
                spent.append(timed([*arguments, *options]))
            seconds[name].append(spent[0][0] - spent[1][0])
            processor[name].append(spent[0][1] - spent[1][1])
    pace = {name: (number - 1) / statistics.median(values) for name, values in seconds.items()}
    first = pace["one process, fp32"]
    return {
        "images": number,
        "cores": int(cores),
        "images_per_second": pace,
        "ratio": {name: value / first for name, value in pace.items()},
        "processor_seconds_per_image": {
            name: statistics.median(values) / (number - 1) for name, values in processor.items()
        },
    }


def memory(folder: Path, sizes: list[int]) -> dict[str, Any]:
    """Peak megabytes of the largest process at several numbers of images, as links to one set."""
    write_files(folder / "originals", 50)
    originals = sorted((folder / "originals").iterdir())
    peaks = {}
    for size in sizes:
        links = folder / f"links-{size}"
        links.mkdir()
        for index in range(size):
            os.link(originals[index % len(originals)], links / f"{index:07}.jpg")
        # What grows with the number of images does not depend on how much of each is looked at.
        options = ["--shards", "--processes", "1", "--policy", "crops:size=32,count=1"]
        out = folder / f"memory-{size}"
        peaks[size] = timed(command("score", links, "-o", out, *options, "--model", MODEL))[2]
    return {"peak_megabytes": peaks, "ratio": peaks[sizes[-1]] / peaks[sizes[0]]}


def planning(folder: Path, number: int) -> dict[str, Any]:
    """Seconds and megabytes of making and of comparing a plan of empty files of many names."""
    names = folder / "names"
    names.mkdir()
    (names / "original.jpg").touch()
    for index in range(number - 1):
        if index % 30_000 == 0:
            part = names / f"{index // 30_000:04}"
            part.mkdir()
        # One file has at most some ten thousand names on many file systems.
        try:
            os.link(names / "original.jpg", part / f"{index:09}.jpg")
        except OSError:
            (part / f"{index:09}.jpg").touch()
    arguments = command("score", names, "-r", "-o", folder / "planned", "--model", MODEL)
    arguments += ["--shards", "--plan-only"]
    empty = folder / "empty"
    empty.mkdir()
    (empty / "a.jpg").touch()
    base = command("score", empty, "-o", folder / "planned-one", "--model", MODEL)
    start = timed([*base, "--shards", "--plan-only"])
    plan, resume = timed(arguments), timed(arguments)
    return {
        "names": number,
        **{
            name: {"seconds": spent[0], "processor_seconds": spent[1], "megabytes": spent[2]}
            for name, spent in {"start": start, "plan": plan, "resume": resume}.items()
        },
    }


def run(folder: Path, tars: Path | None, number: int, kills: int) -> dict[str, Any]:
    """Score tar shards with kills in between, then check that every image has one row."""
    from qmamba.scale import ScoresFolder, read_status
    from qmamba.scale.shard_file import read_columns

    if tars is None:
        tars = folder / "tars"
        write_tars(tars, number)
    else:
        number = 0
        for path in tars.glob("*.tar"):
            with tarfile.open(path) as archive:
                number += len(archive.getnames())
    scores = folder / "scores"
    arguments = command("score", tars, "-o", scores, "--shards", "--model", MODEL)
    arguments += ["--policy", "fast", "--precision", "int8", "--batch-images", "8"]
    rng = random.Random(0)
    started = time.perf_counter()
    killed = 0
    while True:
        with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as process:
            try:
                pause = rng.uniform(20, 45) if killed < kills else None
                code = process.wait(pause)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                killed += 1
    seconds = time.perf_counter() - started
    status = read_status(scores)
    files = [scores / f"{shard.name}.parquet" for shard in ScoresFolder(scores).load().shards]
    keys = [key for path in files for key in read_columns(path, ("key",))["key"]]
    expected = {f"{i // PER_TAR:05}.tar/{i:09}.jpg" for i in range(number)}
    if code != 0 or not status.complete or len(keys) != number or set(keys) != expected:
        raise SystemExit(f"not every image has one row: {status}")
    size = sum(path.stat().st_size for path in files)
    return {
        "images": number,
        "shards": status.shards,
        "kills": killed,
        "seconds": seconds,
        "images_per_second": number / seconds,
        "bytes_per_image": size / number,
        "errors": status.errors,
    }


def extrapolation(report: dict[str, Any]) -> dict[str, Any]:
    """What 10^9 images would cost, and how far that is from what was really scored."""
    wanted = 10**9
    steps = report["profile"]["processor_milliseconds_per_image"]
    cores = len(os.sched_getaffinity(0))
    largest = report["run"]["images"]
    hours = {
        "ten crops, int8": steps["all, int8, ten crops"] / 3.6e6 * wanted,
        "fast, int8": steps["all, int8, fast"] / 3.6e6 * wanted,
        "fast, int8, as the run was, kills included": (
            report["run"]["seconds"] * cores / largest / 3600 * wanted
        ),
    }
    return {
        "images": wanted,
        "core_hours": hours,
        "largest_run": largest,
        "factor": wanted / largest,
        "per_core": {
            "read and decode": 1e3 / steps["read and decode"],
            "network int8, ten crops": 1e3 / steps["network int8, ten crops"],
            "network int8, fast": 1e3 / steps["network int8, fast, 8 share"],
            "all, int8, ten crops": 1e3 / steps["all, int8, ten crops"],
            "all, int8, fast": 1e3 / steps["all, int8, fast"],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ("profile", "throughput", "memory", "planning", "generate", "run")
    parser.add_argument("--part", nargs="+", choices=parts, default=["profile", "throughput"])
    parser.add_argument(
        "--images", type=int, default=200, help="of profile (24 at most), throughput"
    )
    parser.add_argument("--files", type=int, default=20_000, help="of generate and run")
    parser.add_argument("--data", type=Path, help="where generate writes and run reads")
    parser.add_argument("--names", type=int, default=1_000_000, help="of planning")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 50_000], help="of memory")
    parser.add_argument("--kills", type=int, default=4, help="of run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="show that it runs")
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    given = parser.parse_args()
    if given.quick:
        given.images, given.files, given.names, given.kills = 4, 16, 2000, 1
        given.sizes, given.rounds = [8, 16], 1
    if "generate" in given.part and given.data is None:
        parser.error("generate needs --data FOLDER")
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        works: dict[str, Callable[[], dict[str, Any]]] = {
            "profile": lambda: profile(folder, min(given.images, 24), given.rounds),
            "throughput": lambda: throughput(folder, given.images, given.rounds),
            "memory": lambda: memory(folder, given.sizes),
            "planning": lambda: planning(folder, given.names),
            "generate": lambda: generate(given.data, given.files),
            "run": lambda: run(folder, given.data, given.files, given.kills),
        }
        for part in given.part:
            report[part] = {**works[part](), "load": os.getloadavg()[0]}
            print(part, json.dumps(report[part]), flush=True)
    if given.out.exists():
        report = {**json.loads(given.out.read_text()), **report}
        report.pop("machine", None)
    if "profile" in report and "run" in report:
        report["extrapolation"] = extrapolation(report)
        print("extrapolation", json.dumps(report["extrapolation"]), flush=True)
    write(given.out, report)


if __name__ == "__main__":
    main()
