"""Every tensor that the package makes names its dtype and its device.

``torch.set_default_dtype`` and ``torch.set_default_device`` belong to the program that uses the
package. A scratch tensor that followed them would be taken for float32 on the CPU by the C++
kernel, and would change results everywhere else.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import qmamba

PACKAGE = Path(qmamba.__file__).parent

FACTORIES = {
    *("arange", "empty", "empty_strided", "eye", "full", "linspace", "logspace", "ones", "rand"),
    *("randint", "randn", "randperm", "range", "scalar_tensor", "tensor", "zeros"),
    *("blackman_window", "hamming_window", "hann_window", "kaiser_window", "bartlett_window"),
}
"""Functions of torch that make a tensor from nothing but numbers."""
FIXED_DTYPE = {"randperm": "dtype"}
"""What has its own dtype whatever the default is."""


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def violations(source: str) -> Iterator[tuple[int, str, set[str]]]:
    """Line, function and what it does not name, for each call that makes a tensor."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        module, name = node.func.value, node.func.attr
        if not (isinstance(module, ast.Name) and module.id == "torch" and name in FACTORIES):
            continue
        named = {keyword.arg for keyword in node.keywords}
        missing = {"dtype", "device"} - named - {FIXED_DTYPE.get(name)}
        if missing and "out" not in named and None not in named:
            yield node.lineno, name, {str(word) for word in missing}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_tensors_name_their_dtype_and_device(path: Path) -> None:
    found = [
        f"line {line}: torch.{name} without {' and '.join(sorted(missing))}"
        for line, name, missing in violations(path.read_text(encoding="utf-8"))
    ]
    assert not found, f"{path.relative_to(PACKAGE)}: " + "; ".join(found)


def test_the_rule_finds_what_it_should() -> None:
    assert [v[1:] for v in violations("torch.zeros(3, dtype=d)")] == [("zeros", {"device"})]
    assert not list(violations("torch.zeros(3, dtype=d, device='cpu'); x.new_zeros(3)"))
