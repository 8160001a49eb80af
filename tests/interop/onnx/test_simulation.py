"""Quantized networks as ONNX files that simulate them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

import qmamba.interop.onnx.export as exporting
from qmamba.checkpoints import save_quantized
from qmamba.errors import ConfigError, QMambaError
from qmamba.inference import prepare
from qmamba.interop.onnx import export_onnx
from qmamba.interop.onnx.functions import DOMAIN, VERSION
from qmamba.interop.onnx.rounding import DYNAMIC, FIXED, rounding_functions
from qmamba.interop.onnx.simulation import GraphQuantizer, converted
from qmamba.interop.onnx.verification import LEAST_PSNR, Comparison, fault, open_session
from qmamba.models import ModelMetadata
from qmamba.quantization import QuantConfig, calibrate, quantize_
from qmamba.quantization.quantizers import Operand, Quantizer, create_quantizer
from tests.interop.onnx.samples import SCALE, operator_counts, require_torch, run_session
from tests.quantization.networks import build, images


def quantized(name: str, **options: Any) -> Any:
    model: Any = quantize_(build(name), QuantConfig(**{"step": "ptq", **options}))
    calibrate(model, [images(2, 32)])
    model.metadata = ModelMetadata(
        name, model.config.architecture, score=SCALE, policy={"name": "native"}
    )
    return quantize_(model, QuantConfig(step="convert"))


def rounded(quantizer: Quantizer, x: Tensor, opset: int) -> Tensor:
    """What the function of a file makes of values."""
    graph = GraphQuantizer(quantizer)
    info = helper.make_tensor_value_info
    operands_of = ["x", "first", "second"]
    node = helper.make_node(graph.function, operands_of, ["y"], domain=DOMAIN, **graph.attributes)
    operands = {"x": x, **dict(graph.named_buffers(recurse=False))}
    inputs = [info(key, TensorProto.FLOAT, list(value.shape)) for key, value in operands.items()]
    output = info("y", TensorProto.FLOAT, list(x.shape))
    model = helper.make_model(
        helper.make_graph([node], "rounding", inputs, [output]),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=10 if opset > 19 else 9,
    )
    model.functions.extend(rounding_functions(opset, {graph.function}))
    onnx.checker.check_model(model, full_check=True)
    found = run_session(open_session(model.SerializeToString(), threads=1), **operands)
    return found if graph.bounds is None else found.clamp(*graph.bounds)


CASES: list[tuple[str, dict[str, Any], str]] = [
    ("dls", {}, DYNAMIC),
    ("dls", {"statistics": "batch"}, DYNAMIC),
    ("dls", {"statistics": "frozen"}, FIXED),
    ("dls", {"compat": True}, DYNAMIC),
    ("static", {}, FIXED),
    ("static", {"compat": True}, FIXED),
    *((name, {}, FIXED) for name in ("lsq", "lsq+", "pams", "dorefa", "quantsr", "minmax")),
]


@pytest.mark.parametrize(("name", "options", "function"), CASES)
@pytest.mark.parametrize(("bits", "opset"), [(2, 18), (4, 21), (8, 23)])
def test_a_function_gives_the_levels_of_its_quantizer(
    name: str, options: dict[str, Any], function: str, bits: int, opset: int
) -> None:
    generator = torch.Generator().manual_seed(bits)
    quantizer = create_quantizer(name, bits, Operand(copies=4), **options)
    x = torch.randn(3, 5, 7, 6, generator=generator) * torch.tensor([1.0, 3, 0.1]).view(3, 1, 1, 1)
    quantizer(x + 0.3)
    quantizer.eval()
    assert GraphQuantizer(quantizer).function == function
    for values in (x, x[:1] - 2, x[:, :1, :1]):
        expected = quantizer(values).detach()
        found = rounded(quantizer, values, opset)
        assert (found.unique().numel() > 1) == (expected.unique().numel() > 1)
        # A value between two levels may go to either.
        equal = torch.isclose(found, expected, rtol=1e-4, atol=1e-5)
        assert float(equal.float().mean()) > 0.99
        step = expected.flatten().sort().values.diff().max()
        assert float((found - expected).abs().max()) <= float(step) + 1e-4


def test_a_constant_image_passes_unchanged() -> None:
    quantizer = create_quantizer("dls", 4, Operand())
    quantizer(torch.randn(2, 4, 4, 3))
    quantizer.eval()
    x = torch.stack([torch.full((4, 4, 3), 0.37), torch.zeros(4, 4, 3)])
    torch.testing.assert_close(rounded(quantizer, x, 21), x, rtol=0, atol=1e-6)


def test_learned_thresholds_and_quantizers_without_data_are_refused() -> None:
    with pytest.raises(ConfigError, match="quantized by RFA cannot be exported"):
        GraphQuantizer(create_quantizer("rfa", 4, Operand()))
    with pytest.raises(ConfigError, match="seen no data"):
        GraphQuantizer(create_quantizer("dls", 4, Operand()))


@require_torch
@pytest.mark.parametrize(
    ("name", "options", "opset"),
    [
        ("light", {}, 21),
        ("classic", {"weight_bits": 2, "activation_bits": 3}, 21),
        ("denoise", {"weight_bits": 8, "activation_bits": 8, "statistics": "frozen"}, 18),
    ],
)
def test_a_restorer_is_near_its_packed_network(
    name: str, options: dict[str, Any], opset: int, tmp_path: Path
) -> None:
    model = quantized(name, **options)
    save_quantized(model, tmp_path / "packed.safetensors")
    report = export_onnx(tmp_path / "packed.safetensors", tmp_path / "file.onnx", opset=opset)
    assert report.is_simulation
    assert report.metadata["qmamba.model"] == name and len(report.metadata["qmamba.sha256"]) == 64
    for each in report.comparisons:
        assert each.psnr is not None and each.unrounded is not None
        assert each.psnr > max(LEAST_PSNR, each.unrounded)
    bits = options.get("weight_bits", 4), options.get("activation_bits", 4)
    assert report.metadata["qmamba.simulation"].startswith("simulates W{}A{}:".format(*bits))
    file = onnx.load(report.path)
    assert {entry.domain for entry in file.opset_import} == {"", DOMAIN}
    counts = operator_counts(file)
    dynamic = 0 if options.get("statistics") == "frozen" else 5 * sum(model.config.depths)
    assert counts.get(f"{DOMAIN}::{DYNAMIC}", 0) == dynamic
    assert counts[f"{DOMAIN}::{FIXED}"] > 5 and counts[f"{DOMAIN}::SS2DGivenDelta"] >= 1
    assert f"{DOMAIN}::Codes" not in counts
    kinds = {tensor.data_type for tensor in file.graph.initializer}
    assert (TensorProto.INT4 if opset >= 21 else TensorProto.INT8) in kinds


@require_torch
@pytest.mark.parametrize("name", ["quality", "local quality"])
def test_a_scorer_is_near_its_packed_network(name: str, tmp_path: Path) -> None:
    report = export_onnx(quantized(name), tmp_path / "file.onnx", static=(64, 72))
    assert report.is_simulation and report.deviation < 0.02
    assert report.comparisons[0].psnr is None


def test_a_prepared_network_is_converted_first(tmp_path: Path) -> None:
    model: Any = quantize_(build("light"), QuantConfig(step="ptq"))
    with pytest.raises(ConfigError, match="seen no data"):
        export_onnx(model, tmp_path / "file.onnx")
    calibrate(model, [images(2, 32)])
    image = images(1, seed=2)
    torch.testing.assert_close(converted(model)(image), model(image), rtol=0, atol=0)
    assert model.layers[0].residual_group.blocks[0].self_attention.x_proj_weight is not None


@require_torch
def test_a_file_that_rounds_wrongly_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Levels that are off by the spread of the values instead of their mean."""
    whole = exporting.rounding_functions

    def with_wrong_statistics(opset: int, names: set[str]) -> list[onnx.FunctionProto]:
        functions = whole(opset, names)
        for function in functions:
            for node in function.node:
                if node.output[0] == "mean_moved":
                    node.input[0] = "highest"
                if node.output[0] == "moments":
                    node.input[0], node.input[2] = node.input[2], node.input[0]
        return functions

    monkeypatch.setattr(exporting, "rounding_functions", with_wrong_statistics)
    with pytest.raises(QMambaError, match=r"dB from the packed network.*no file was written"):
        export_onnx(quantized("light"), tmp_path / "file.onnx", static=(24, 20))
    assert not list(tmp_path.iterdir())


@require_torch
def test_a_quantized_network_without_quantized_activations(tmp_path: Path) -> None:
    model = quantized("light")
    report = export_onnx(model, tmp_path / "file.onnx", precision="fp32", static=(24, 20))
    assert not report.is_simulation and report.deviation <= 1e-5
    assert "qmamba.simulation" not in report.metadata
    assert report.metadata["qmamba.precision"].startswith("fp32: weights of the codes")
    operators = operator_counts(onnx.load(report.path))
    assert not {"DequantizeLinear", f"{DOMAIN}::{DYNAMIC}"} & set(operators)
    image = torch.rand(1, 3, 24, 20)
    found = run_session(open_session(report.path, threads=1), image=image)
    expected = prepare(model, "fp32")(image).clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_precisions_are_two(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision is codes or fp32, got 'bf16'"):
        export_onnx(quantized("light"), tmp_path / "file.onnx", precision=cast(Any, "bf16"))
    with pytest.raises(ConfigError, match="this one is in full precision"):
        export_onnx(build("light"), tmp_path / "file.onnx", precision="codes")


def test_the_bits_of_a_quantized_network_are_its_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave weight_bits out"):
        export_onnx(quantized("light"), tmp_path / "file.onnx", weight_bits=4)


@pytest.mark.parametrize(
    ("psnr", "unrounded", "deviation", "message"),
    [
        (40.0, 39.0, 0.3, None),
        (34.0, 30.0, 0.3, "34.0 dB from the packed network, and 35 is the least"),
        (40.0, 41.0, 0.3, "no nearer than without rounding"),
        (None, None, 1e-5, None),
        (None, None, 2e-4, "0.0001 is the most"),
        (None, 0.01, 0.01, None),
        (None, 0.01, 0.03, "of the range from the packed network"),
        (float("nan"), 30.0, 0.3, "is the least"),
    ],
)
def test_what_is_kept(
    psnr: float | None, unrounded: float | None, deviation: float, message: str | None
) -> None:
    found = fault([Comparison((1, 3, 8, 8), deviation, psnr, 1.0, 1.0, unrounded)])
    assert found is None if message is None else found is not None and message in found
