"""The package as a whole: its public names, what importing it costs, and the files around it."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, entry_points, version

import pytest
import torch

import qmamba
from tests.conftest import REPOSITORY


def fenced_command(marker: str) -> str:
    """The command that README.md shows between two `<!-- marker -->` lines."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    pattern = rf"^<!-- {marker} -->\n```bash\n(.+)\n```\n<!-- {marker} -->$"
    commands = re.findall(pattern, readme, flags=re.MULTILINE)
    assert len(commands) == 1, f"README.md must show one {marker}"
    return str(commands[0])


@pytest.mark.parametrize("name", qmamba.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(qmamba, name) is not None
    assert name in dir(qmamba)


def test_every_lazy_name_is_public() -> None:
    assert {*qmamba._HOMES, "__version__"} == set(qmamba.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    name = "Scorrer"
    with pytest.raises(AttributeError, match="no attribute 'Scorrer'"):
        getattr(qmamba, name)


def test_import_is_cheap() -> None:
    code = "import sys, qmamba; print(*sorted(m.partition('.')[0] for m in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "numpy", "PIL", "safetensors", "huggingface_hub", "typer"}
    assert not heavy & set(result.stdout.split())


def test_version_comes_from_one_source() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in project and "src/qmamba/__init__.py" in project
    changes = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)", changes, re.MULTILINE)[0] == qmamba.__version__
    assert f"\nversion: {qmamba.__version__}\n" in citation


def test_installed_distribution() -> None:
    try:
        installed = version("qmamba")
    except PackageNotFoundError:
        pytest.skip("runs from the source tree, not installed")
    assert installed == qmamba.__version__
    (command,) = entry_points(group="console_scripts", name="qmamba")
    assert callable(command.load())


def test_license_and_citation() -> None:
    assert "Apache License" in (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert "arXiv:2406.09546" in citation
    assert "arXiv:2503.21970" in citation


def test_every_dependency_has_a_tested_version() -> None:
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^([a-z0-9-]+)==", constraints, flags=re.MULTILINE))
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    declared = project[project.index("\ndependencies = [") : project.index("\n[project.scripts]")]
    names = re.findall(r'"([A-Za-z0-9_-]+)[^"]*"', declared)
    assert len(names) > 10
    assert {name.replace("_", "-") for name in names} <= pinned


def test_readme_commands() -> None:
    assert fenced_command("main-command").endswith("&& qmamba score examples/")
    assert fenced_command("test-command").endswith("&& pytest -q")


def test_scoring_imports_no_compiler() -> None:
    code = (
        "import sys, qmamba.restore; from qmamba import Scorer; "
        "Scorer.from_pretrained('qmamba-nano-biq2021'); print('torch._dynamo' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_the_choice_of_a_scan_is_marked_as_torch_marks_it() -> None:
    marked = torch.compiler.assume_constant_result(lambda: None)
    assert marked._dynamo_marked_constant is True
