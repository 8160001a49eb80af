"""Runs ``triton_checks.py`` and ``triton_compile.py`` in processes of their own.

Whether Triton compiles or interprets a kernel is decided for a whole process, by the environment,
when the kernel is defined.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qmamba.ops.triton import operators

REPOSITORY = Path(__file__).resolve().parents[2]
PYTEST = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
CHECKS = [*PYTEST, "tests/ops/triton_checks.py", "tests/ops/triton_layer_checks.py"]

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


def run(*arguments: str, interpret: bool = False) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": str(int(interpret))}
    environment.pop("QMAMBA_BACKEND", None)
    command = [sys.executable, *arguments]
    result = subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@needs_triton
def test_the_kernels_are_right_in_the_interpreter() -> None:
    run(*CHECKS, interpret=True)


@needs_triton
def test_the_kernels_compile_for_a_gpu() -> None:
    run("-m", "tests.ops.triton_compile")


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_kernels_are_right_on_the_gpu() -> None:
    run(*CHECKS)


def test_the_operators_need_no_triton() -> None:
    code = """
import sys
sys.modules["triton"] = None
from qmamba.ops import backends
assert [row.live for row in backends() if row.name == "triton"] == [False, False]
assert "qmamba.ops.triton.kernels" not in sys.modules
"""
    run("-c", code)


def test_the_reason_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert operators.unavailable_reason("cpu") == "Triton kernels run on a GPU"
    monkeypatch.setattr(operators, "_installed_version", lambda: None)
    assert operators.unavailable_reason("cuda") == "Triton is not installed"
    monkeypatch.setattr(operators, "_installed_version", lambda: (3, 2))
    reason = "Triton 3.2 is installed, and 3.4 or later is needed"
    assert operators.unavailable_reason("cuda") == reason
    monkeypatch.setattr(operators, "_installed_version", lambda: (3, 6))
    monkeypatch.setattr(operators, "_capability", lambda: (7, 5))
    reason = "the GPU has compute capability 7.5, and Triton needs 8.0"
    assert operators.unavailable_reason("cuda") == reason
    monkeypatch.setattr(operators, "_capability", lambda: (9, 0))
    assert operators.unavailable_reason("cuda") is None
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert operators.unavailable_reason("cpu") is None
