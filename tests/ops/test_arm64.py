"""The kernel on arm64, emulated, beside the same source on this processor.

Compiling it takes longer than all other tests of the kernel, so it runs where it is asked for, with
``QMAMBA_TEST_ARM64=1``; ``docs/kernel.md`` says what it needs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import REPOSITORY

NATIVE = REPOSITORY / "native"
OPTIONS = ("-std=c++17", "-O2", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")


def results(compiler: str, emulator: list[str], folder: Path) -> NDArray[np.float32]:
    program = folder / compiler
    sources = [str(path) for path in sorted(NATIVE.rglob("*.cpp"))]
    driver = str(Path(__file__).with_name("portable_driver.cpp"))
    command = [compiler, *OPTIONS, "-DQMAMBA_VARIANT=base", f"-I{NATIVE}", *sources, driver]
    subprocess.run([*command, "-static", "-pthread", "-o", str(program)], check=True)
    run = subprocess.run([*emulator, str(program)], capture_output=True, check=True)
    return np.frombuffer(run.stdout, np.float32)


@pytest.mark.skipif(not os.environ.get("QMAMBA_TEST_ARM64"), reason="QMAMBA_TEST_ARM64 is not set")
def test_results_are_those_of_this_processor(tmp_path: Path) -> None:
    cross, emulator = "aarch64-linux-gnu-g++", "qemu-aarch64"
    for tool in (cross, emulator, "g++"):
        assert shutil.which(tool), f"{tool} is not installed"
    here = results("g++", [], tmp_path)
    there = results(cross, [emulator], tmp_path)
    assert here.size == there.size > 10_000
    assert np.isfinite(here).all() and np.abs(here).max() > 1
    # Where a value lies next to the edge of a step, integers and bfloat16 may take another one.
    off = np.abs(here - there) > 2e-5 * np.abs(here) + 2e-4
    assert off.mean() < 5e-3
    assert np.abs(here - there).max() < 0.1 * np.abs(here).max()
