"""The kernel must not become dearer unnoticed: instructions are counted, because seconds vary."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import qmamba.ops.native
from qmamba.ops.native import library as kernel
from tests.conftest import REPOSITORY

CALL = {
    "forward": 0.80e6,
    "backward": 2.3e6,
    "integer": 0.68e6,
    "linear": 0.27e6,
    "linear_backward": 0.55e6,
    "channel_window": 0.26e6,
    "channel_window_backward": 0.63e6,
    "gated_norm": 0.14e6,
    "gated_norm_backward": 0.20e6,
}
"""Most instructions of an AVX2 call on 14 x 14 pixels of 64 channels: the scan of 4 routes, rank 2
and one state, a normalized linear layer on integers, and layers in training and back."""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("c++") or shutil.which("g++")
    if kernel.unavailable_reason() is not None or compiler is None or not shutil.which("valgrind"):
        pytest.skip("needs the kernel, a C++ compiler and valgrind")
    if kernel.load_kernel().library.qmamba_lanes() < kernel.LANES["avx2"]:
        pytest.skip("this processor has no AVX2")
    program = tmp_path_factory.mktemp("count") / "driver"
    source = Path(__file__).with_name("count_driver.cpp")
    include = f"-I{REPOSITORY / 'native'}"
    command = [compiler, "-std=c++17", "-O1", include, str(source), "-ldl", "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def instructions(driver: Path, step: str, repeats: int) -> int:
    folders = [Path(folder) for folder in qmamba.ops.native.__path__]
    library = next(p for folder in folders for p in folder.glob("libqmamba_scan.*"))
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(driver)]
    command += [str(library), step, str(kernel.LANES["avx2"]), str(repeats)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"Collected : (\d+)", run.stderr)
    assert found is not None, run.stderr
    return int(found[1])


@pytest.mark.parametrize("step", list(CALL))
def test_instructions_of_one_call(driver: Path, step: str) -> None:
    # The difference of two counts leaves out the start of the process.
    cost = instructions(driver, step, 3) - instructions(driver, step, 2)
    assert 0.5 * CALL[step] < cost < CALL[step], f"{step}: {cost} instructions"
