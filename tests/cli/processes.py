"""Several commands, each in a process of its own, for the price of one start.

`python -m tests.cli.processes` reads calls as JSON from standard input, forks once for each and
writes what became of them. Importing torch takes most of the time of a short command.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from subprocess import PIPE, run
from typing import NoReturn


@dataclass(frozen=True)
class Ended:
    """What became of a command."""

    code: int
    """Its exit code; minus the number of the signal that killed it."""
    errors: str
    """What it wrote to standard error."""


@dataclass(frozen=True)
class Call:
    """A command and what it has to live with."""

    arguments: list[str]
    largest_file: int | None = None
    """Bytes after which the disk counts as full."""
    is_read: bool = True
    """Whether anybody reads its standard output."""
    signal: str = ""
    """Name of a signal that comes while it writes its first file."""


def run_all(
    calls: Sequence[Call], environment: dict[str, str], *, rights: bool = True
) -> list[Ended]:
    """Run the calls one after the other.

    Args:
        calls: the commands.
        environment: of the processes.
        rights: False takes root's right to write everywhere away; needs `setpriv` as root.
    """
    words = [sys.executable, "-m", "tests.cli.processes"]
    if not rights and os.geteuid() == 0:
        words = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *words]
    given = json.dumps([asdict(call) for call in calls])
    done = run(words, input=given, stdout=PIPE, text=True, env=environment, check=True)
    return [Ended(**each) for each in json.loads(done.stdout)]


def _command(call: Call, errors: int) -> NoReturn:
    """Become the command."""
    import resource

    from qmamba.cli import main

    out = os.open(os.devnull, os.O_WRONLY)
    if not call.is_read:
        reading, out = os.pipe()
        os.close(reading)
    os.dup2(out, 1)
    os.dup2(errors, 2)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
    sys.stdin = open(os.devnull)  # noqa: SIM115 - open until the end
    if call.largest_file is not None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (call.largest_file, hard))
    if call.signal:
        _meet(getattr(signal, call.signal))
    sys.argv = ["qmamba", *call.arguments]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    try:
        sys.stdout.flush()
    except OSError as error:
        # As the interpreter does.
        os.write(2, f"Exception ignored: {error}".encode())
        code = 120
    sys.stderr.flush()
    os._exit(code)


def _meet(number: int) -> None:
    """Let a signal come when a file is complete and has not taken its place yet."""
    # A shell starts background jobs, and so the tests in one, with some signals ignored.
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    replace = os.replace

    def interrupted(source: str, target: str) -> None:
        os.replace = replace
        os.kill(os.getpid(), number)
        replace(source, target)

    os.replace = interrupted  # type: ignore[assignment]


def _forked(call: Call) -> Ended:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _command(call, writing)
    os.close(writing)
    with open(reading, "rb") as errors:
        text = errors.read().decode(errors="replace")
    return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text)


if __name__ == "__main__":
    import torch  # noqa: F401 - imported once for all

    import qmamba.assess
    import qmamba.restore
    import qmamba.training  # noqa: F401

    given = [Call(**each) for each in json.load(sys.stdin)]
    ends = [asdict(_forked(call)) for call in given]
    json.dump(ends, sys.stdout)
