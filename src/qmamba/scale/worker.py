"""One worker: claims a shard, scores its images, writes its file, and goes on to the next.

``python -m qmamba.scale`` is what :mod:`qmamba.scale.runner` starts: a job comes as one line
of JSON on standard input, reports go as lines of JSON to standard output, and the end of standard
input asks it to stop.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

from qmamba.assess import ImageViews, Scorer
from qmamba.errors import ImageError, QMambaError
from qmamba.files import remove_temporaries
from qmamba.inference import Precision
from qmamba.scale import faults
from qmamba.scale.claims import STALE_SECONDS, Claim, Claims, Deaths
from qmamba.scale.members import Member, ShardGone, members
from qmamba.scale.plan import Plan, ScoresFolder, Settings, Shard
from qmamba.scale.rows import WORKER_DIED, Row, count_errors, error_row, scored_row
from qmamba.scale.shard_file import Footer, write_shard
from qmamba.scale.sources import Root

REPORT_EVERY = 50
"""Images between two reports of a worker."""


@dataclass(frozen=True)
class Job:
    """What a worker is to do, as values that JSON has."""

    folder: str
    """The folder of scores; it has a plan."""
    model: str | None = None
    """Weights: see :meth:`~qmamba.assess.Scorer.from_pretrained`."""
    tuned: str | None = None
    """Tuned file on top of the weights."""
    policy: str | None = None
    """Views of an image."""
    device: str = "cpu"
    """Where the network runs."""
    precision: Precision = "auto"
    """How the network computes."""
    max_pixels: int = 100_000_000
    """Largest image that is decoded."""
    batch_images: int = 1
    """Images that share a call of the network."""
    decoders: int = 1
    """Threads that decode images."""
    threads: int | None = 1
    """Threads of the network on the CPU; None leaves torch's number."""
    shard_index: int = 0
    """This part of the work, from 0."""
    shard_count: int = 1
    """Number of parts that the work is divided into."""
    stale_seconds: float = STALE_SECONDS
    """Seconds without a heartbeat after which a claim is taken over."""
    roots: tuple[Root, ...] = field(default=())
    """Where the data lie, where that is not as in the plan."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Job:
        """What :meth:`to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "roots": tuple(Root(**root) for root in values["roots"])})

    def make_scorer(self) -> Scorer:
        """The scorer that the job asks for.

        Raises:
            CheckpointError, ConfigError: see :class:`~qmamba.assess.Scorer`.
        """
        return Scorer.from_pretrained(
            self.model,
            tuned=self.tuned,
            device=self.device,
            policy=self.policy,
            precision=self.precision,
            max_pixels=self.max_pixels,
            batch_images=self.batch_images,
        )

    def part(self, plan: Plan) -> list[Shard]:
        """The shards of this part of the work."""
        return list(plan.shards[self.shard_index :: self.shard_count])


Report = Callable[[dict[str, Any]], None]


class Worker:
    """Scores shards of a folder until none is left that nobody else is at.

    Args:
        job: what to do.
        report: takes what is worth telling, as plain values: ``{"at": n}`` images of the shard,
            ``{"shard": name, "rows": n, "errors": n}``, ``{"shard": name, "gone": sentence}``.
        stop: when set, the present shard is dropped and the work ends.

    Raises:
        DataError: the folder has no plan or another one.
    """

    def __init__(self, job: Job, report: Report, stop: threading.Event) -> None:
        if job.device == "cpu" and job.threads is not None:
            import torch

            # Scores depend on the number of threads in their last bits.
            torch.set_num_threads(job.threads)
        self._job = job
        self._report = report
        self._stop = stop
        self._folder = ScoresFolder(job.folder)
        self._plan = self._folder.load()
        self._scorer = job.make_scorer()
        here = Settings.of(self._scorer, self._plan.settings.format)
        self._folder.require(Plan(here, *_rest(self._plan)))
        self._claims = Claims(
            self._folder, stale_seconds=job.stale_seconds, alone=job.shard_count > 1
        )

    def run(self) -> None:
        """Work.

        Raises:
            DataError: a file of scores cannot be written.
        """
        gone: set[str] = set()
        found = True
        while found and not self._stop.is_set():
            found = False
            for shard in self._job.part(self._plan):
                output = self._folder.output(shard, self._plan)
                if self._stop.is_set() or shard.name in gone or output.exists():
                    continue
                claim = self._claims.take(shard.name)
                if claim is None:
                    continue
                with claim:
                    if output.exists():
                        continue
                    found = True
                    try:
                        self._score(shard, claim)
                    except ShardGone as error:
                        gone.add(shard.name)
                        self._report({"gone": str(error), "shard": shard.name})

    def _score(self, shard: Shard, claim: Claim) -> None:
        deaths = self._claims.deaths(shard.name)
        found = members(shard, self._plan, self._folder, self._job.roots or None)
        rows = []
        with closing(self._rows(found, claim, deaths)) as scored:
            for row in scored:
                rows.append(row)
                faults.reached("after_rows", len(rows))
                if self._stop.is_set():
                    return
                if len(rows) % REPORT_EVERY == 0:
                    self._report({"at": len(rows)})
        # Whoever dies from here on does so after the last image.
        claim.mark(len(rows), len(rows))
        errors = count_errors(rows)
        output = self._folder.output(shard, self._plan)
        remove_temporaries(output)
        try:
            write_shard(output, rows, Footer(self._plan.hash, len(rows), errors))
        except FileNotFoundError:
            # Another worker took the shard over while this one was stopped, and cleaned up.
            if not output.exists():
                raise
        self._claims.forget_deaths(shard.name)
        self._report({"shard": shard.name, "rows": len(rows), "errors": sum(errors.values())})

    def _rows(
        self, found: Iterable[Member], claim: Claim, deaths: Deaths
    ) -> Generator[Row, None, None]:
        """The rows of a shard; where workers died before, images are worked on one by one."""
        scorer = self._scorer
        if len(deaths.ranges) > 1 and scorer.batch_images > 1:
            scorer = scorer.with_batch_images(1)
        begun: deque[Member] = deque()
        views = _views(scorer, found, claim, deaths, self._job.decoders, begun)
        with closing(views):
            for result in scorer.score_prepared(views):
                member = begun.popleft()
                source = member.source if isinstance(member.source, str) else ""
                if isinstance(result, QMambaError):
                    text = str(result)
                    yield error_row(member.key, member.uid, text, member.notes, source)
                else:
                    yield scored_row(member.key, member.uid, result, member.notes)


def _rest(plan: Plan) -> tuple[int, tuple[Root, ...], tuple[Shard, ...]]:
    return plan.shard_size, plan.roots, plan.shards


def _views(
    scorer: Scorer,
    found: Iterable[Member],
    claim: Claim,
    deaths: Deaths,
    decoders: int,
    begun: deque[Member],
) -> Generator[ImageViews | QMambaError, None, None]:
    """The views of the images, decoded ahead; those begun that have no row yet stand in `begun`.

    Memory depends on the size of the images, not on their number.
    """
    ahead = 2 * decoders
    pool = ThreadPoolExecutor(decoders, thread_name_prefix="qmamba-decode")
    pending: deque[Future[ImageViews | QMambaError]] = deque()
    try:
        for index, member in enumerate(found):
            suspect = deaths.suspect(index)
            if suspect:
                yield from _finished(pending)
            begun.append(member)
            claim.mark(index - len(begun) + 1, index)
            if deaths.is_fatal(index):
                pending.append(_done(ImageError(WORKER_DIED)))
            elif member.error is not None:
                pending.append(_done(ImageError(member.error)))
            else:
                pending.append(pool.submit(_prepare, scorer, member))
            if suspect:
                yield from _finished(pending)
            elif len(pending) > ahead:
                yield pending.popleft().result()
        yield from _finished(pending)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _finished(
    pending: deque[Future[ImageViews | QMambaError]],
) -> Iterator[ImageViews | QMambaError]:
    while pending:
        yield pending.popleft().result()


def _prepare(scorer: Scorer, member: Member) -> ImageViews | QMambaError:
    try:
        faults.reached("member", member.key)
        return scorer.prepare(member.source)
    except QMambaError as error:
        return error
    except Exception as error:
        # One image must not end the work on all the others, whatever it does.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return ImageError(f"cannot prepare the image ({reason})")


def _done(error: QMambaError) -> Future[ImageViews | QMambaError]:
    future: Future[ImageViews | QMambaError] = Future()
    future.set_result(error)
    return future


def main() -> None:
    """Work on the job on standard input; exit code 0, or 1 after an error, which is reported."""
    stop = threading.Event()

    def report(message: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    job = Job.from_json(sys.stdin.buffer.readline())
    threading.Thread(target=_wait_for_end, args=(sys.stdin.buffer, stop), daemon=True).start()
    try:
        Worker(job, report, stop).run()
    except QMambaError as error:
        report({"error": str(error)})
        code = 1
    except BrokenPipeError:
        code = 1
    else:
        code = 0
    sys.stdout.flush()
    # A thread that still waits for standard input would keep the interpreter from ending.
    os._exit(code)


def _wait_for_end(stream: BinaryIO, stop: threading.Event) -> None:
    while stream.read(1):
        pass
    stop.set()
