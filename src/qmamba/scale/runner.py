"""Several workers on one machine, watched: who dies is replaced, who stops leaves no trace."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from qmamba.errors import ConfigError
from qmamba.scale.claims import Claims
from qmamba.scale.plan import Plan, ScoresFolder, Shard
from qmamba.scale.worker import Job

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 30.0
_MOST_DEATHS = 50
_MOST_EARLY_DEATHS = 3


@dataclass
class Outcome:
    """How a run ended."""

    rows: int = 0
    """Rows that it wrote."""
    failed: int = 0
    """Those of them without a score."""
    deaths: int = 0
    """Workers that died and were replaced."""
    gone: list[str] = field(default_factory=list)
    """One sentence for each shard that is missing or was changed since the plan was made."""
    error: str | None = None
    """Why the run ended early, None where it did not."""
    signal: int | None = None
    """The signal that ended it, None where none did."""
    complete: bool = False
    """Whether all shards of this part of the work are done."""


@dataclass(frozen=True)
class State:
    """How far a run is."""

    rows: int
    """Images done by this run, those of shards at work included."""
    failed: int
    """Those of finished shards that have no score."""
    waiting_for: int = 0
    """Shards that other runs are at, where nothing else is left."""


class Runner:
    """Scores the shards of a folder with several processes.

    Several runners, on one machine or on several, can work on one folder at a time. A worker that
    dies is replaced; an image that workers die at twice gets an error row. The run ends when all
    shards are done, also those of other runners: when one of these dies, its shards are taken over.

    Args:
        job: what each worker does; the folder has a plan.
        processes: number of workers.
        tell: called now and then with how far the run is.

    Raises:
        ConfigError: there is no such number of processes or part of the work.
    """

    def __init__(
        self, job: Job, *, processes: int = 1, tell: Callable[[State], None] = lambda state: None
    ) -> None:
        if processes < 1:
            raise ConfigError(f"processes must be 1 or more, got {processes}.")
        if not 0 <= job.shard_index < job.shard_count:
            raise ConfigError(
                f"The shard index must be from 0 to {job.shard_count - 1}, one less than the shard"
                f" count, got {job.shard_index}."
            )
        self._job = job
        self._processes = processes
        self._tell = tell
        self._folder = ScoresFolder(job.folder)
        self._plan: Plan = self._folder.load()
        self._part = job.part(self._plan)
        self._claims = Claims(
            self._folder, stale_seconds=job.stale_seconds, alone=job.shard_count > 1
        )
        self._messages: queue.Queue[tuple[_Process, dict[str, Any] | None]] = queue.Queue()
        self._workers: list[_Process] = []
        self._outcome = Outcome()
        self._gone: dict[str, str] = {}
        self._early_deaths = 0

    def run(self) -> Outcome:
        """Work until all is done or a signal comes (SIGINT, SIGTERM, SIGHUP)."""
        with _signals(self._on_signal):
            try:
                while not self._is_over():
                    self._hear()
            finally:
                self._stop()
        self._outcome.gone = list(self._gone.values())
        self._outcome.complete = not self._open() and not self._gone
        return self._outcome

    def _is_over(self) -> bool:
        if self._outcome.signal is not None or self._outcome.error is not None:
            return True
        if self._outcome.deaths >= _MOST_DEATHS or self._early_deaths >= _MOST_EARLY_DEATHS:
            self._outcome.error = (
                f"{self._outcome.deaths} workers died; run with --processes 1 or --batch-images 1,"
                " or on a machine with more memory."
            )
            return True
        if len(self._workers) == self._processes:
            return False
        left = self._open()
        if not left:
            return not self._workers
        self._claims.clear_stale()
        held = self._claims.held()
        free = sum(shard.name not in held for shard in left)
        for _ in range(min(free, self._processes) - len(self._workers)):
            self._workers.append(_Process(self._job, self._messages))
        if not self._workers:
            self._report(waiting_for=len(left))
        return False

    def _open(self) -> list[Shard]:
        """Shards of this part that are not done and can be."""
        return [
            shard
            for shard in self._part
            if not self._folder.output(shard, self._plan).exists() and shard.name not in self._gone
        ]

    def _hear(self) -> None:
        try:
            worker, message = self._messages.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            return
        if message is None:
            self._bury(worker)
        elif "at" in message:
            worker.at = message["at"]
        elif "gone" in message:
            self._gone[message["shard"]] = message["gone"]
        elif "shard" in message:
            worker.at = 0
            self._early_deaths = 0
            self._outcome.rows += message["rows"]
            self._outcome.failed += message["errors"]
        elif "error" in message:
            self._outcome.error = message["error"]
        self._report()

    def _bury(self, worker: _Process) -> None:
        """A worker has ended: with a signal it died, else it found nothing to do or said why."""
        self._workers.remove(worker)
        code = worker.wait()
        if code == 0 or self._outcome.signal is not None:
            return
        if code > 0 and self._outcome.error is None:
            self._outcome.error = f"a worker ended with exit code {code}"
        elif code < 0:
            self._outcome.deaths += 1
            if not self._claims.bury(worker.pid):
                self._early_deaths += 1

    def _stop(self) -> None:
        """Ask all workers to drop their shards, and end those that do not listen."""
        for worker in self._workers:
            worker.ask_to_stop()
        until = time.monotonic() + _PATIENCE_SECONDS
        for worker in self._workers:
            worker.end(max(0.0, until - time.monotonic()))
            if worker.was_killed:
                self._claims.bury(worker.pid)

    def _report(self, waiting_for: int = 0) -> None:
        at = sum(worker.at for worker in self._workers)
        self._tell(State(self._outcome.rows + at, self._outcome.failed, waiting_for))

    def _on_signal(self, number: int) -> None:
        self._outcome.signal = number


class _Process:
    """A worker process and the thread that listens to it."""

    def __init__(self, job: Job, messages: queue.Queue[tuple[_Process, dict[str, Any] | None]]):
        environment = dict(os.environ)
        if job.device == "cpu" and job.threads is not None:
            environment["OMP_NUM_THREADS"] = str(job.threads)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "qmamba.scale"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            # Signals of the terminal reach the runner alone, which asks its workers to stop.
            start_new_session=True,
        )
        self.at = 0
        self.was_killed = False
        with suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.write(job.to_json().encode() + b"\n")
            self._process.stdin.flush()
        threading.Thread(target=self._listen, args=(messages,), daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self) -> int:
        return self._process.wait()

    def ask_to_stop(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def end(self, patience: float) -> None:
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.was_killed = True
            self._process.kill()
            self._process.wait()

    def _listen(self, messages: queue.Queue[tuple[_Process, dict[str, Any] | None]]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict):
                    messages.put((self, message))
        messages.put((self, None))


@contextmanager
def _signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Hand signals that ask a process to end to a function, where this thread may do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]

    def handler(number: int, frame: FrameType | None) -> None:
        handle(number)

    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
