"""Deaths on order, for the tests of what survives them.

``QMAMBA_FAULT=kill:after_rows=17`` ends the worker and the process that watches over it, as a power
cut would; ``crash:`` ends the worker alone, as a faulty image would. Points: ``after_rows=N``,
``member=KEY``, ``during_footer``, ``before_rename`` and ``after_rename``.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "QMAMBA_FAULT"


def reached(point: str, value: object = "") -> None:
    """Die here if that was ordered."""
    order = os.environ.get(VARIABLE)
    if not order:
        return
    kind, _, wanted = order.partition(":")
    if wanted != (f"{point}={value}" if value != "" else point):
        return
    if kind == "kill":
        os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
