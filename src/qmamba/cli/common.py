"""What the commands share: messages, errors and exit codes, and the progress display."""

from __future__ import annotations

import functools
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ParamSpec, TextIO, TypeVar

import typer

from qmamba.cli.interrupts import signals_that_interrupt
from qmamba.errors import ConfigError, QMambaError
from qmamba.files import NO_SPACE
from qmamba.locks import owned_outputs

EXIT_SOME_FAILED = 1
EXIT_USAGE = 2
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
_EXIT_SIGNAL = 128

OUTPUT_IS_FULL = "error: cannot write the output: no space left there, free some space"

DEBUG_VARIABLE = "QMAMBA_DEBUG"

_BAR_WIDTH = 24
_SECONDS_BETWEEN_BARS = 0.1
_SECONDS_BETWEEN_LINES = 10.0

_HELD: ContextVar[list[AbstractContextManager[Any]]] = ContextVar("held")
"""What the present command lets go of when it ends: the outputs that belong to it."""

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def exit_code_of(number: int | None) -> int:
    """The exit code of a process that a signal stopped; that of Ctrl-C where it is not known."""
    return EXIT_INTERRUPTED if number is None else _EXIT_SIGNAL + number


def counted(number: int, noun: str) -> str:
    """A number with its noun in singular or plural: ``1 image``, ``0 images``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def say(message: str) -> None:
    """Write one message for the person at the screen to standard error."""
    write(message + "\n", sys.stderr)


def write(text: str, stream: TextIO) -> None:
    """Write at once; characters that the stream's encoding lacks are escaped.

    A command that writes files goes on where nobody reads its lines any more, as in ``| head -1``.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        if stream is not sys.stdout or not _HELD.get(None):
            raise
        silence(stream)


def silence(stream: TextIO) -> None:
    """Let what is written from now on, and what a stream still holds, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def answer(text: str) -> None:
    """Write what was asked for, one line or several, to standard output."""
    write(text + "\n", sys.stdout)


def shown(text: str) -> str:
    """The text with control characters, line ends and undecodable bytes escaped, for a terminal."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def handled(command: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Turn what a command raises into one line on standard error and an exit code.

    A `QMambaError` is the user's to mend and exits with 2, an interrupt with 130, anything else is
    a bug and exits with 70; with QMAMBA_DEBUG=1 in the environment its traceback is shown.
    """

    @functools.wraps(command)
    def run(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        with warnings.catch_warnings(), signals_that_interrupt() as received, _holding():
            warnings.showwarning = _say_warning
            try:
                return command(*args, **kwargs)
            except typer.Exit as error:
                if received and error.exit_code == EXIT_INTERRUPTED:
                    raise typer.Exit(exit_code_of(received[-1])) from None
                raise
            except QMambaError as error:
                say(f"error: {shown(str(error))}")
                raise typer.Exit(EXIT_USAGE) from error
            except KeyboardInterrupt:
                say("interrupted")
                raise typer.Exit(exit_code_of(received[-1] if received else None)) from None
            except (typer.Abort, typer.BadParameter, BrokenPipeError):
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno in NO_SPACE:
                    # Files say so themselves; what is left is the stream that the output goes to.
                    say(OUTPUT_IS_FULL)
                    raise typer.Exit(EXIT_USAGE) from error
                if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
                    raise
                if isinstance(error, OSError) and isinstance(error.filename, str):
                    say(f"error: Cannot use {error.filename!r}: {error.strerror}.")
                    raise typer.Exit(EXIT_USAGE) from error
                say(
                    f"error: unexpected {type(error).__name__}: {shown(str(error))}; please report"
                    f" it with the traceback that {DEBUG_VARIABLE}=1 shows"
                )
                raise typer.Exit(EXIT_BUG) from error

    return run


def hold(resource: AbstractContextManager[_Result]) -> _Result:
    """Enter a context, an output that belongs to this process, until the command ends."""
    entered = resource.__enter__()
    _HELD.get().append(resource)
    return entered


def take_outputs(*paths: Path | None, force: bool) -> None:
    """Keep output files to this process until the command ends; None is passed over.

    Raises:
        ConfigError: one of them is there and not to be replaced, or two are one file.
        DataError: another process has one of them, or a place is not writable.
    """
    hold(owned_outputs(*paths))
    if not force:
        require_new(*(path for path in paths if path is not None))


def require_new(*paths: Path) -> None:
    """Refuse output files that are there. What is written directly, a device or pipe, may be.

    Raises:
        ConfigError: one of them is there.
    """
    for path in paths:
        if path.is_file():
            raise ConfigError(f"{str(path)!r} exists already; --force replaces it.")


@contextmanager
def _holding() -> Iterator[None]:
    held: list[AbstractContextManager[Any]] = []
    before = _HELD.set(held)
    try:
        yield
    finally:
        _HELD.reset(before)
        with ExitStack() as stack:
            for resource in held:
                stack.push(resource)


def _say_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    say(f"warning: {message}")


def table_lines(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of a table with aligned columns: the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    ]


def parsed_size(option: str, text: str) -> tuple[int, int]:
    """Height and width from a text such as ``384x512``.

    Raises:
        ConfigError: it is none; the message names the option.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise ConfigError(f"{option} is height x width such as 384x512, got {text!r}.")
    return int(match[1]), int(match[2])


class Progress:
    """How far the work is: a bar that redraws itself on a terminal, a line now and then elsewhere.

    Args:
        total: number of images, None if not known.
        stream: where it is drawn.
        clock: seconds that only ever grow.
    """

    def __init__(
        self,
        total: int | None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._stream = stream or sys.stderr
        self._clock = clock
        self._on_terminal = self._stream.isatty()
        self._started = self._drawn = clock()
        self._length = 0

    def update(self, done: float, failed: int) -> None:
        """Tell how many images are done, parts of one included, and how many of them failed."""
        now = self._clock()
        pause = _SECONDS_BETWEEN_BARS if self._on_terminal else _SECONDS_BETWEEN_LINES
        if now - self._drawn < pause:
            return
        self._drawn = now
        line = self._line(done, failed, now - self._started)
        if self._on_terminal:
            write("\r" + line.ljust(self._length), self._stream)
            self._length = len(line)
        else:
            write(line + "\n", self._stream)

    def clear(self) -> None:
        """Take the bar off the terminal, so that other text can be written there."""
        if self._length:
            write("\r" + " " * self._length + "\r", self._stream)
            self._length = 0

    def _line(self, done: float, failed: int, seconds: float) -> str:
        rate = done / seconds if seconds > 0 else 0.0
        whole = int(done)
        of = "" if self._total is None else f"{whole}/"
        parts = [of + counted(whole if self._total is None else self._total, "image")]
        parts.append(f"{1 / rate:.1f} s each" if 0 < rate < 0.5 else f"{rate:.1f}/s")
        if self._total is not None and rate > 0:
            left = round((self._total - done) / rate)
            parts.append(f"{left // 60}:{left % 60:02d} left")
        if failed:
            parts.append(f"{failed} failed")
        text = ", ".join(parts)
        if self._total and self._on_terminal:
            filled = min(_BAR_WIDTH, int(_BAR_WIDTH * done / self._total))
            text = f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {text}"
        return text
