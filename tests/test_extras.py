"""Optional packages that are missing or broken."""

from __future__ import annotations

import subprocess
import sys

import pytest

from qmamba.errors import QMambaError
from qmamba.extras import MissingExtraError, extra

HOSTS = {
    "torchmetrics": "qmamba[torchmetrics]",
    "spandrel": "qmamba[spandrel]",
    "cleanvision": "qmamba[cleanvision]",
    "pyiqa": "pyiqa",
}


@pytest.mark.parametrize("name", HOSTS)
def test_a_missing_host_names_what_to_install(name: str) -> None:
    code = (
        f"import sys; sys.modules[{name!r}] = None\n"
        "from qmamba.extras import MissingExtraError\n"
        f"try:\n    import qmamba.interop.{name}\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f'run pip install "{HOSTS[name]}".' in result.stdout, result.stderr
    assert "\n" not in result.stdout.strip()


def test_the_package_imports_no_host() -> None:
    code = (
        "import sys, qmamba\nqmamba.Scorer, qmamba.Restorer\n"
        f"print([name for name in {list(HOSTS)} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_both_kinds_of_error() -> None:
    with pytest.raises(ImportError), extra("plot", "A plot"):
        raise ModuleNotFoundError("No module named 'x'")
    message = r"cannot be imported \(broken\); install the torchvision"
    with pytest.raises(QMambaError, match=message), extra("plot", "A plot"):
        raise RuntimeError("broken")
    assert issubclass(MissingExtraError, QMambaError)
