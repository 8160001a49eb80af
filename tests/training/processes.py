"""Runs in processes of their own, to be killed or to train together."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="forks the process")


def start(target: Callable[..., None], *arguments: Any, **environment: str) -> Any:
    """Fork and call `target` there with one thread and these environment variables."""
    process = multiprocessing.get_context("fork").Process(
        target=_run, args=(target, arguments, environment)
    )
    process.start()
    return process


def start_ranks(count: int, target: Callable[..., None], *arguments: Any) -> list[Any]:
    """The environment that `torchrun` gives to each of `count` processes on one machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        start(
            target,
            *arguments,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(count),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        for rank in range(count)
    ]


def finish(processes: list[Any], seconds: float = 60.0) -> list[int]:
    """Exit codes; a process that is late is killed."""
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def wait_for(condition: Callable[[], bool], process: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.001)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _run(
    target: Callable[..., None], arguments: tuple[Any, ...], environment: dict[str, str]
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    target(*arguments)
