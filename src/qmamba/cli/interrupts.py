"""Signals that stop a command, none of which is lost."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SECONDS_UNTIL_AGAIN = 0.02


@contextmanager
def signals_that_interrupt() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does; the numbers of those that came.

    What is ignored, as SIGHUP is under nohup, stays so. Python drops what is raised in a callback
    that nothing calls, a finalizer or the end of an import; an interrupt that comes there is raised
    again a moment later.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, interrupt)
    hook = sys.unraisablehook
    sys.unraisablehook = _raising_again(received, hook)
    try:
        yield received
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _raising_again(received: list[int], otherwise: Callable[[Any], Any]) -> Callable[[Any], None]:
    def hook(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            otherwise(dropped)
            return
        number = received[-1] if received else signal.SIGINT
        # Raised here it would be dropped like the first.
        timer = threading.Timer(_SECONDS_UNTIL_AGAIN, _send, (signal.Signals(number),))
        timer.daemon = True
        timer.start()

    return hook


def _send(number: signal.Signals) -> None:
    """Send a signal to the main thread, if there it still does more than end the process."""
    if signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN, None):
        return
    main = threading.main_thread().ident
    if sys.platform == "win32" or main is None:
        _thread.interrupt_main(number)
    else:
        # What only looks like a signal would not end a system call that waits.
        signal.pthread_kill(main, number)
