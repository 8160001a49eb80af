"""What `qmamba quantize` says about the cost of few bits."""

from __future__ import annotations

import copy

import pytest

from qmamba.quantization import QuantConfig, calibrate, quantize_
from qmamba.quantization.agreement import agreement
from tests.quantization.networks import build, images


@pytest.mark.parametrize("name", ["light", "quality"])
def test_more_bits_agree_better_and_a_network_with_itself(name: str) -> None:
    full = build(name).eval()
    inputs = [images(1, 32, seed=seed) for seed in range(4)]
    found = []
    for bits in (2, 4, 8):
        model = quantize_(copy.deepcopy(full), QuantConfig(bits, bits, step="ptq"))
        found.append(agreement(full, calibrate(model, inputs), inputs))
    same = agreement(full, full, inputs)
    if name == "light":
        ratios = [each.psnr or 0 for each in (*found, same)]
        assert ratios == sorted(ratios) and ratios[-1] == 100
        assert "dB from full precision on 4 crops" in str(same)
    else:
        changes = [each.largest_change or 0 for each in (*found, same)]
        assert changes == sorted(changes, reverse=True) and changes[-1] == 0
        assert same.rank_correlation == pytest.approx(1)
        assert "rank correlation with full precision 1.000" in str(same)
