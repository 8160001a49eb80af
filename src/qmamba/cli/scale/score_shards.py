"""`qmamba score --shards` and `--ray`: from many images to a folder of scores."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from qmamba.cli.common import EXIT_SOME_FAILED, Progress, counted, say, shown
from qmamba.cli.options.shards import ShardArguments
from qmamba.errors import ConfigError

if TYPE_CHECKING:
    from qmamba.assess import Scorer
    from qmamba.scale import Job, Outcome, Plan, ScoresFolder, State, Status

_SIGNAL_EXIT = 128


def score_shards(
    paths: list[str],
    output: Path | None,
    sharded: ShardArguments,
    scorer: Scorer,
    *,
    model: str | None,
    tuned: Path | None,
    recursive: bool,
    decoders: int | None,
    resume: bool,
) -> None:
    """Score what the paths stand for into a folder, or go on with one.

    Raises:
        ConfigError: an option is missing or has no effect.
        DataError: nothing is found, or the folder has another plan.
        Exit: with 1 where not all images have a score, also because the disk is full; with 130 or
            143 after a signal.
    """
    from qmamba.scale import Job, Runner, ScoresFolder

    if output is None:
        raise ConfigError("A folder of scores needs a name; give it with -o.")
    folder = ScoresFolder(output)
    if folder.path.is_file():
        raise ConfigError(f"--shards writes a folder and {str(output)!r} is a file; name another.")
    if resume and not folder.books.exists():
        say(f"nothing to go on from: {shown(str(output))} holds no scores")
    if sharded.ray is not None:
        _with_ray(paths, output, sharded, scorer, model, tuned)
        return
    plan, roots = _plan(paths, folder, sharded, scorer, recursive)
    say(_described(plan))
    if sharded.plan_only:
        return
    cores = usable_cores()
    on_cpu = scorer.device.type == "cpu"
    job = Job(
        folder=str(output),
        model=model,
        tuned=None if tuned is None else str(tuned),
        policy=str(scorer.policy),
        device=str(scorer.device),
        precision=scorer.precision,
        max_pixels=scorer.max_pixels,
        batch_images=scorer.batch_images,
        decoders=decoders or (1 if on_cpu else min(16, cores)),
        shard_index=sharded.shard_index or 0,
        shard_count=sharded.shard_count or 1,
        stale_seconds=60 * sharded.stale_minutes,
        roots=roots,
    )
    display = _Display(plan, folder, job)
    runner = Runner(
        job, processes=sharded.processes or (cores if on_cpu else 1), tell=display.update
    )
    outcome = runner.run()
    display.clear()
    _finish(outcome, output, folder, plan, job)


def _with_ray(
    paths: list[str],
    output: Path,
    sharded: ShardArguments,
    scorer: Scorer,
    model: str | None,
    tuned: Path | None,
) -> None:
    from qmamba.images import require_existing
    from qmamba.scale import Job, Settings
    from qmamba.scale.ray import require_ray, score_with_ray

    if sharded.shards:
        raise ConfigError("--ray and --shards are two ways to divide the work; choose one.")
    if not paths:
        raise ConfigError("Name the images, tar files or Parquet files.")
    require_ray()
    here = [path for path in paths if "://" not in path]
    if here:
        require_existing(here)
    job = Job(
        folder=str(output),
        model=model,
        tuned=None if tuned is None else str(tuned),
        policy=str(scorer.policy),
        device=str(scorer.device),
        precision=scorer.precision,
        max_pixels=scorer.max_pixels,
        batch_images=scorer.batch_images,
    )
    on_cpu = scorer.device.type == "cpu"
    rows = score_with_ray(
        paths,
        job,
        Settings.of(scorer, "parquet"),
        address=sharded.ray or "local",
        actors=sharded.processes or (usable_cores() if on_cpu else 1),
    )
    say(f"{counted(rows, 'row')} in all, written to {shown(str(output))}")


def usable_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _plan(
    paths: list[str], folder: ScoresFolder, sharded: ShardArguments, scorer: Scorer, recursive: bool
) -> tuple[Plan, tuple]:
    """The plan of the folder, checked against what is asked for, and where the data lie now."""
    from dataclasses import replace

    from qmamba.scale import DEFAULT_SHARD_SIZE, Settings, Sources, make_plan
    from qmamba.scale.shard_file import choose_format

    exists = folder.plan_file.exists()
    if not paths:
        if not exists:
            raise ConfigError("Name the images, or a folder of scores to go on with.")
        plan = folder.load()
        settings = Settings.of(scorer, plan.settings.format)
        folder.require(replace(plan, settings=settings))
        return plan, ()
    sources = Sources(paths, recursive=recursive, stdin=sys.stdin.buffer, without=folder.path)
    before = folder.load() if exists and not sharded.force_plan else None
    wanted = sharded.format
    if wanted is None and before is not None:
        wanted = before.settings.format
    settings = Settings.of(scorer, choose_format(wanted))
    size = sharded.shard_size or (before.shard_size if before else DEFAULT_SHARD_SIZE)
    if before is not None:
        # What the workers need is compared before anything is listed.
        folder.require(replace(before, settings=settings, shard_size=size))
    plan = make_plan(sources, settings, folder, size)
    if exists and sharded.force_plan and folder.load().difference(plan) is not None:
        aside = folder.put_aside()
        say(f"the old scores are in {shown(str(aside))} now")
        plan = make_plan(sources, settings, folder, size)
    return folder.save(plan), plan.roots


def _described(plan: Plan) -> str:
    count = sum(shard.count for shard in plan.shards)
    tars = sum(shard.kind == "tar" for shard in plan.shards)
    parts = [counted(count, "image") if count else "", counted(tars, "tar file") if tars else ""]
    return f"{' and '.join(filter(None, parts))} in {counted(len(plan.shards), 'shard')}"


class _Display:
    """Progress of the runner on standard error."""

    def __init__(self, plan: Plan, folder: ScoresFolder, job: Job) -> None:
        left = [s for s in job.part(plan) if not folder.output(s, plan).exists()]
        known = not any(shard.kind == "tar" for shard in left)
        self._progress = Progress(sum(shard.count for shard in left) if known else None)
        self._waits = False

    def update(self, state: State) -> None:
        if state.waiting_for and not self._waits:
            self.clear()
            say(f"waiting for {state.waiting_for} shards that other runs are at")
        self._waits = bool(state.waiting_for)
        self._progress.update(state.rows, state.failed)

    def clear(self) -> None:
        self._progress.clear()


def _finish(outcome: Outcome, output: Path, folder: ScoresFolder, plan: Plan, job: Job) -> None:
    from qmamba.scale.shard_file import read_footer

    for sentence in outcome.gone:
        say(f"error: {shown(sentence)}")
    files = [folder.output(shard, plan) for shard in job.part(plan)]
    if outcome.error is not None:
        done = sum(path.exists() for path in files)
        reason = shown(outcome.error).removesuffix(".")
        say(
            f"error: {reason}; {done} of {counted(len(files), 'shard')} finished and kept, the same"
            " command goes on"
        )
    if outcome.signal is not None:
        say(f"interrupted; finished shards are in {shown(str(output))}, the same command goes on")
        raise typer.Exit(_SIGNAL_EXIT + outcome.signal)
    if outcome.error is not None:
        raise typer.Exit(EXIT_SOME_FAILED)
    footers = [read_footer(path) for path in files if path.exists()]
    rows = sum(footer.rows for footer in footers)
    failed = sum(sum(footer.errors.values()) for footer in footers)
    died = f", {outcome.deaths} workers died and were replaced" if outcome.deaths else ""
    say(
        f"{counted(outcome.rows, 'image')} done now, {rows - failed} scored in all"
        + (f", {failed} failed" if failed else "")
        + died
        + f", written to {shown(str(output))}"
    )
    if failed or not outcome.complete:
        raise typer.Exit(EXIT_SOME_FAILED)


def status_lines(status: Status) -> list[str]:
    """What `qmamba scores status` prints."""
    lines = [
        f"shards  {status.done} of {status.shards} done"
        + (f", {status.at_work} at work" if status.at_work else ""),
        f"rows    {status.rows}",
    ]
    errors = ", ".join(f"{count} {kind}" for kind, count in status.errors.items())
    lines.append(f"errors  {sum(status.errors.values())}" + (f" ({errors})" if errors else ""))
    if status.rate is not None:
        lines.append(f"rate    {status.rate:.1f} images per second")
    if status.seconds_left is not None:
        minutes = round(status.seconds_left / 60)
        lines.append(f"left    {minutes // 60} h {minutes % 60:02} min")
    lines += [f"damaged {shown(name)}; delete it and run again" for name in status.damaged]
    return lines
