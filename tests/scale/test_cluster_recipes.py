"""The recipes of docs/scale.md for clusters, run here as they are written with numbers by hand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import qmamba
from tests.conftest import REPOSITORY
from tests.scale.sets import samples, write_tar

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the recipes are for a POSIX shell")


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """The environment of a node, in which `qmamba` is the command of this checkout."""
    command = tmp_path / "bin" / "qmamba"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m qmamba "$@"\n')
    command.chmod(0o755)
    (tmp_path / "data" / "shards").mkdir(parents=True)
    for number in range(2):
        write_tar(tmp_path / "data" / "shards" / f"{number:05}.tar", samples(2, 2 * number))
    return {
        **os.environ,
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(qmamba.__file__).parent.parent),
        "OMP_NUM_THREADS": "1",
    }


def block(title: str, language: str) -> str:
    """The first block of code below a heading of the page."""
    page = (REPOSITORY / "docs" / "scale.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {title}\n.*?^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def run(script: str, folder: Path, environment: dict[str, str], **more: str) -> str:
    result = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**environment, **more},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_slurm(tmp_path: Path, shell: dict[str, str]) -> None:
    script, folder = block("Slurm", "bash"), tmp_path / "data"
    before = re.search(r"^# Once before: (.*)$", script, re.MULTILINE)
    assert before is not None
    run(before[1], folder, shell)
    # The last of 64 tasks finds nothing to do with two shards.
    for task in ("0", "63", "1"):
        run(script, folder, shell, SLURM_ARRAY_TASK_ID=task)
    status = json.loads(run("qmamba scores status scores/ --json", folder, shell))
    assert status["complete"] and (status["shards"], status["rows"]) == (2, 4)
    assert not status["errors"]


def test_kubernetes(tmp_path: Path, shell: dict[str, str]) -> None:
    found = re.search(r'command: \[sh, -c, "(.*)"\]', block("Kubernetes", "yaml"))
    assert found is not None
    folder = tmp_path / "data"
    line = found[1].replace("/data/", f"{folder}/")
    run("qmamba score 'shards/*.tar' -o scores/ --shards --plan-only", folder, shell)
    run(line, folder, shell, JOB_COMPLETION_INDEX="1")
    status = json.loads(run("qmamba scores status scores/ --json || true", folder, shell))
    assert not status["complete"] and (status["done"], status["rows"]) == (1, 2)
