"""What the nodes use of ComfyUI's interface, with the names and keywords that it has."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "integrations" / "comfyui"


@dataclass
class Socket:
    """An input or output of a node."""

    kind: str
    id: str | None = None
    display_name: str | None = None
    optional: bool = False
    tooltip: str | None = None
    default: Any = None
    min: float | None = None
    max: float | None = None
    step: float | None = None


@dataclass
class Schema:
    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Socket] = field(default_factory=list)
    outputs: list[Socket] = field(default_factory=list)
    description: str = ""


class NodeOutput:
    def __init__(self, *args: Any) -> None:
        self.args = args


class ComfyNode:
    """Base of the nodes."""


class ComfyExtension:
    """Base of the extension."""


def _kind(name: str) -> SimpleNamespace:
    return SimpleNamespace(
        Input=lambda id, **options: Socket(name, id, **options),
        Output=lambda **options: Socket(name, **options),
    )


def comfy_modules() -> dict[str, ModuleType]:
    """``comfy_api.latest`` with its parent."""
    latest = ModuleType("comfy_api.latest")
    kinds = {name: _kind(name) for name in ("Image", "Float", "Int", "String", "Boolean")}
    vars(latest)["io"] = SimpleNamespace(
        Schema=Schema, NodeOutput=NodeOutput, ComfyNode=ComfyNode, Input=Socket, **kinds
    )
    vars(latest)["ComfyExtension"] = ComfyExtension
    parent = ModuleType("comfy_api")
    vars(parent)["latest"] = latest
    return {"comfy_api": parent, "comfy_api.latest": latest}


@contextmanager
def loaded_folder(*, with_v3: bool) -> Iterator[ModuleType]:
    """The folder imported as ComfyUI does, by its path and under a name made from it."""
    name = str(FOLDER).replace(".", "_x_")
    present = {key: sys.modules.get(key) for key in ("comfy_api", "comfy_api.latest")}
    try:
        if with_v3:
            sys.modules.update(comfy_modules())
        else:
            sys.modules["comfy_api"] = None  # type: ignore[assignment]
        spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        for key in [key for key in sys.modules if key.startswith(name)]:
            del sys.modules[key]
        for key, value in present.items():
            if value is None:
                sys.modules.pop(key, None)
            else:
                sys.modules[key] = value
