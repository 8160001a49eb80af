"""The folder for ComfyUI: the real spandrel, and a stub of ComfyUI's own interface."""

from __future__ import annotations

import asyncio
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from qmamba.assess import DEFAULT_WEIGHTS, Scorer
from tests.assess.samples import pixels, save_tiny
from tests.integrations.comfy_stub import FOLDER, ComfyExtension, loaded_folder
from tests.interop.hosts import host
from tests.models.micro_mambair import VARIANTS, build

spandrel = host("spandrel")

NODES = ("QMambaQualityScore", "QMambaPickBest", "QMambaKeepIfBetter")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("weights")))


@pytest.fixture(autouse=True)
def registry() -> Any:
    """The main registry as it was before, because importing the folder adds to it."""
    main = spandrel.MAIN_REGISTRY
    kept = main.copy()
    yield main
    main.__dict__.update(kept.__dict__)


def batch(*seeds: int, height: int = 40, width: int = 50) -> Tensor:
    """As ComfyUI hands images over: (batch, height, width, channels)."""
    arrays = [torch.from_numpy(pixels(height, width, seed)) for seed in seeds]
    return torch.stack(arrays).float() / 255


def v3_nodes(module: ModuleType) -> dict[str, Any]:
    """The nodes by their identifier, through the entry point as ComfyUI's loader takes it."""
    entry = module.comfy_entrypoint
    assert inspect.iscoroutinefunction(entry)
    extension = asyncio.run(entry())
    assert isinstance(extension, ComfyExtension)
    nodes = asyncio.run(extension.get_node_list())  # type: ignore[attr-defined]
    return {node.define_schema().node_id: node for node in nodes}


def run(module: ModuleType, name: str, **inputs: Any) -> tuple[Any, ...]:
    """Execute a node of either schema, after checking its declaration against its function."""
    if hasattr(module, "comfy_entrypoint"):
        node = v3_nodes(module)[name]
        schema = node.define_schema()
        declared = [entry.id for entry in schema.inputs]
        outputs = len(schema.outputs)
        result = node.execute(**inputs).args
        function = node.execute
    else:
        node = module.NODE_CLASS_MAPPINGS[name]()
        declared = list(node.INPUT_TYPES()["required"])
        outputs = len(node.RETURN_TYPES)
        function = getattr(node, node.FUNCTION)
        result = function(**inputs)
    assert declared == list(inspect.signature(function).parameters) and len(result) == outputs
    return tuple(result)


@pytest.mark.parametrize("with_v3", [True, False])
def test_the_stock_loader_opens_mambair(with_v3: bool, tmp_path: Path) -> None:
    """What ComfyUI's UpscaleModelLoader does, after the folder was installed."""
    model = build(VARIANTS["classic-x4"])
    torch.save({"params": model.state_dict()}, tmp_path / "x4.pth")
    with loaded_folder(with_v3=with_v3):
        state = torch.load(tmp_path / "x4.pth", weights_only=True)
        found = spandrel.ModelLoader().load_from_state_dict(state).eval()
    assert isinstance(found, spandrel.ImageModelDescriptor) and found.scale == 4
    image = batch(1, height=12, width=9).movedim(-1, -3)
    with torch.no_grad():
        assert found(image).equal(model(image).clamp(0, 1))


@pytest.mark.parametrize("with_v3", [True, False])
def test_quality_score(with_v3: bool, weights: str) -> None:
    image = batch(1, 4)
    scorer = Scorer.from_pretrained(weights)
    eight_bit = [pixels(40, 50, seed) for seed in (1, 4)]
    expected = [scorer(array) for array in eight_bit]
    with loaded_folder(with_v3=with_v3) as module:
        score, text, shown = run(
            module, "QMambaQualityScore", image=image, model=weights, with_map=True
        )
        again, _, empty = run(
            module, "QMambaQualityScore", image=image, model=weights, with_map=False
        )
    mean = sum(entry.score for entry in expected) / 2
    assert score == pytest.approx(mean, abs=1e-4) and again == pytest.approx(mean, abs=1e-4)
    assert text.splitlines()[1] == f"2: {expected[1].score:.4g} of 0 to 100"
    assert shown.shape == image.shape and float(shown.min()) >= 0 and float(shown.max()) <= 1
    assert float(shown.std()) > 0 and empty.shape == (2, 1, 1, 3)


def test_pick_best(weights: str) -> None:
    images = batch(1, 4, 0, 2)
    scorer = Scorer.from_pretrained(weights)
    raws = [scorer(pixels(40, 50, seed)).raw for seed in (1, 4, 0, 2)]
    order = sorted(range(4), key=lambda index: -raws[index])
    with loaded_folder(with_v3=True) as module:
        best, score, text = run(module, "QMambaPickBest", images=images, count=2, model=weights)
        everything, _, _ = run(module, "QMambaPickBest", images=images, count=9, model=weights)
    assert best.equal(images[order[:2]]) and everything.equal(images[order])
    assert score == pytest.approx(min(max(raws[order[0]], 0), 100))
    assert len(text.splitlines()) == 4


def test_keep_if_better(weights: str) -> None:
    good, bad = batch(4), batch(1)
    alpha = torch.cat([good, torch.ones_like(good[..., :1])], -1)
    with loaded_folder(with_v3=True) as module:

        def keep(before: Tensor, after: Tensor, margin: float = 0.0) -> tuple[Any, ...]:
            return run(
                module,
                "QMambaKeepIfBetter",
                before=before,
                after=after,
                margin=margin,
                model=weights,
            )

        image, gain, text = keep(bad, good)
        assert image.equal(good) and gain > 0 and "after kept" in text
        image, worse, text = keep(good, bad)
        assert image.equal(good) and worse == pytest.approx(-gain) and "before kept" in text
        assert keep(bad, good, margin=gain + 1)[0].equal(bad)
        assert keep(bad, alpha)[0].equal(good)
        larger = torch.nn.functional.interpolate(bad.movedim(-1, 1), scale_factor=2).movedim(1, -1)
        image, _, text = keep(good, larger, margin=100)
        assert image.shape == larger.shape and "first enlarged to 100x80" in text
        image, _, text = keep(bad, torch.cat([good, bad]))
        assert image.equal(torch.cat([good, bad])) and len(text.splitlines()) == 2
        with pytest.raises(ValueError, match="as many images before as after, got 3 and 2"):
            keep(batch(1, 2, 3), batch(1, 2))


def test_both_schemas_declare_the_same() -> None:
    with loaded_folder(with_v3=True) as module:
        assert not hasattr(module, "NODE_CLASS_MAPPINGS")
        v3 = {
            name: (
                [entry.id for entry in node.define_schema().inputs],
                [entry.kind.upper() for entry in node.define_schema().outputs],
                [entry.display_name for entry in node.define_schema().outputs],
                node.define_schema().display_name,
            )
            for name, node in v3_nodes(module).items()
        }
    with loaded_folder(with_v3=False) as module:
        assert not hasattr(module, "comfy_entrypoint")
        v1 = {
            name: (
                list(node.INPUT_TYPES()["required"]),
                list(node.RETURN_TYPES),
                list(node.RETURN_NAMES),
                module.NODE_DISPLAY_NAME_MAPPINGS[name],
            )
            for name, node in module.NODE_CLASS_MAPPINGS.items()
        }
    assert tuple(v3) == NODES and v1 == v3


def test_embedded_weights_are_offered() -> None:
    with loaded_folder(with_v3=True) as module:
        model = v3_nodes(module)["QMambaPickBest"].define_schema().inputs[-1]
        assert model.default == DEFAULT_WEIGHTS and DEFAULT_WEIGHTS in model.tooltip
        assert sys.modules[module.__name__ + ".quality"].weights()[0] == DEFAULT_WEIGHTS


def test_what_the_registry_of_comfyui_reads() -> None:
    tomllib = pytest.importorskip("tomllib", reason="comes with Python 3.11")
    content = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    assert "comfyui" not in content["project"]["name"].lower()
    assert content["project"]["dependencies"] == (FOLDER / "requirements.txt").read_text().split()
    assert content["tool"]["comfy"]["DisplayName"]
