"""How long threads wait for each other before they let others have the processor."""

from __future__ import annotations

import os

BUSY = 1.0
"""A load of the last minute from which another program may be computing."""
WAITING_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
BRIEFLY = "1000"
"""Turns of a waiting thread, some microseconds; GNU's OpenMP takes 300,000 by default."""


def wait_briefly_where_busy() -> None:
    """:func:`wait_briefly`, if other programs want the processors, too.

    On an idle machine the default stays, because it saves the time of waking up.
    """
    if hasattr(os, "getloadavg") and os.getloadavg()[0] >= BUSY:
        wait_briefly()


def wait_briefly() -> None:
    """Let the threads of torch wait briefly for each other, unless the user has chosen.

    GNU's OpenMP, which torch computes with on Linux, lets a thread that is done turn in a loop
    until the others are. Where one of those has lost its processor to another program, that loop
    is what keeps the processor from it, some hundred times in a forward pass.

    It works before torch is loaded only, for this process and those that it starts; figures are in
    ``docs/performance.md``.
    """
    if not any(name in os.environ for name in WAITING_VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = BRIEFLY
