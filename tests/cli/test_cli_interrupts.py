"""An interrupt that comes where Python drops what is raised."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable

import pytest
import typer

from qmamba.cli.common import handled
from qmamba.cli.interrupts import signals_that_interrupt

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")


class Thing:
    """Something with a finalizer."""

    def __init__(self, finalizer: Callable[[], None] = lambda: None) -> None:
        self._finalizer = finalizer

    def __del__(self) -> None:
        self._finalizer()


def in_a_finalizer(send: Callable[[], None]) -> None:
    thing = Thing(send)
    del thing
    gc.collect()


def in_a_callback(send: Callable[[], None]) -> None:
    thing = Thing()
    reference = weakref.ref(thing, lambda _: send())
    del thing
    gc.collect()
    del reference


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("place", [in_a_finalizer, in_a_callback])
def test_a_command_ends(
    place: Callable[..., None], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    number = getattr(signal, name)
    arrived = []

    def send() -> None:
        os.kill(os.getpid(), number)
        time.sleep(0.01)

    @handled
    def command() -> None:
        place(send)
        arrived.append(True)
        time.sleep(10)

    before = sys.unraisablehook, signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    try:
        with pytest.raises(typer.Exit) as end:
            command()
    finally:
        signal.signal(signal.SIGINT, before[1])
    assert arrived and time.monotonic() - started < 5
    assert end.value.exit_code == 128 + number
    assert capsys.readouterr().err == "interrupted\n"
    assert sys.unraisablehook is before[0]


def test_other_errors_are_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: told.append(dropped.exc_type))

    def fail() -> None:
        raise ZeroDivisionError

    with signals_that_interrupt() as received:
        in_a_finalizer(fail)
    assert told == [ZeroDivisionError] and not received
