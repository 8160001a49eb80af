"""Weights of few bits in ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from qmamba.errors import ConfigError
from qmamba.interop.onnx import export_onnx
from qmamba.interop.onnx.verification import greatest_difference, open_session, session_runner
from qmamba.interop.onnx.weights import quantize_rows
from tests.interop.onnx.samples import SCORER, operator_counts, require_torch, restorer, scorer
from tests.models.micro_mambair import VARIANTS


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("whole_zero", [False, True])
def test_codes_are_the_nearest_and_fit_their_bits(bits: int, whole_zero: bool) -> None:
    values = np.random.default_rng(0).normal(0.3, 1, (7, 5, 32)).astype(np.float32)
    values[0, 0] = 0.25
    found = quantize_rows(values, bits, whole_zero=whole_zero)
    top = 2**bits - 1
    assert found.codes.max() == top and found.codes.min() == 0
    levels = (np.arange(top + 1, dtype=np.float32) - found.zero) * found.scale
    nearest = np.abs(levels[..., None, :] - values[..., None]).min(-1)
    np.testing.assert_allclose(np.abs(found.values() - values), nearest, rtol=0, atol=1e-5)
    if whole_zero:
        assert np.array_equal(found.zero, np.round(found.zero))
    # A plain range from the least to the greatest value is one of the candidates.
    step = (np.ptp(values, axis=-1, keepdims=True)) / top
    plain = np.round((values - values.min(-1, keepdims=True)) / step) * step
    plain += values.min(-1, keepdims=True)
    ours = np.square(found.values() - values)[1:].sum()
    assert ours <= np.square(plain - values)[1:].sum() * (1.5 if whole_zero else 1 + 1e-6)


@require_torch
@pytest.mark.parametrize("bits", [4, 2])
def test_a_scorer_with_few_bits(bits: int, tmp_path: Path) -> None:
    model = scorer(SCORER.replace(dims=(32, 64)))
    full = export_onnx(model, tmp_path / "full.onnx", static=(48, 40))
    small = export_onnx(model, tmp_path / "small.onnx", static=(48, 40), weight_bits=bits)
    assert small.size < full.size * {4: 0.6, 2: 0.5}[bits]
    assert small.deviation <= 1e-5
    assert small.metadata["qmamba.weight_bits"] == str(bits)
    file = onnx.load(small.path)
    linear = [node for node in file.graph.node if node.op_type == "MatMulNBits"]
    assert len(linear) == 10 and {
        attribute.i for node in linear for attribute in node.attribute if attribute.name == "bits"
    } == {bits}
    image = torch.rand(2, 3, 48, 40)
    first, second = (
        session_runner(open_session(each.path, threads=1))(image) for each in (full, small)
    )
    change = greatest_difference(first, second)
    assert 0 < change < 0.5
    assert small.changes is not None and 0 < max(small.changes) < 0.2


@require_torch
def test_convolutions_of_a_restorer(tmp_path: Path) -> None:
    model = restorer(VARIANTS["light-march"].replace(dim=32, cab_reduction=4))
    report = export_onnx(model, tmp_path / "small.onnx", static=(24, 20), weight_bits=4)
    counts = operator_counts(onnx.load(report.path))
    assert counts["DequantizeLinear"] >= 3
    assert counts["com.microsoft::MatMulNBits"] >= 3
    assert report.changes is not None and max(report.changes) > report.deviation
    assert all(comparison.psnr and comparison.psnr > 80 for comparison in report.comparisons)


def test_wrong_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="weight_bits is 4 or 2"):
        export_onnx(scorer(), tmp_path / "out.onnx", weight_bits=3)
    with pytest.raises(ConfigError, match="need opset 21"):
        export_onnx(scorer(), tmp_path / "out.onnx", weight_bits=4, opset=20)
