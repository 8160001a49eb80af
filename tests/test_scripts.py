"""Every script of benchmarks/ and recipes/ says what it does and has a quick trial.

The trials themselves: `python -m benchmarks.all --quick`, `python recipes/NAME.py --quick`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

SCRIPTS = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for folder in ("benchmarks", "recipes")
    for path in (REPOSITORY / folder).glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)
# One process for all of them: importing torch takes most of the time.
WALK = """
import contextlib, io, json, runpy, sys
sys.path.insert(0, "recipes")
texts = {}
for script in json.loads(sys.argv[1]):
    sys.argv = [script, "--help"]
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            if script.startswith("benchmarks"):
                runpy.run_module(script[:-3].replace("/", "."), run_name="__main__")
            else:
                runpy.run_path(script, run_name="__main__")
        texts[script] = "did not stop"
    except SystemExit as stop:
        texts[script] = out.getvalue() if not stop.code else f"exit code {stop.code}"
    except Exception as error:
        texts[script] = f"{type(error).__name__}: {error}"
print(json.dumps(texts))
"""


@pytest.fixture(scope="module")
def help_texts() -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", WALK, json.dumps(SCRIPTS)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    texts: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return texts


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_quick(help_texts: dict[str, str], script: str) -> None:
    assert help_texts[script].startswith("usage:"), help_texts[script]
    assert "--quick" in help_texts[script]


def test_all_tries_every_benchmark() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.all", "--list", "--quick"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    scripts = {s.split("/")[1][:-3] for s in SCRIPTS if s.startswith("benchmarks/")}
    assert scripts - {"all"} == set(done.stdout.split())
