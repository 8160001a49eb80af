"""Parameters and FLOPs: the figures of the paper, exactly."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.models import count_flops, count_parameters, model_config, named_configs
from qmamba.nn import SS2D
from tests.models.micro import LOCAL_MICRO, MICRO, build, images

PARAMETERS = {
    "qmamba-tiny": 27_993_409,
    "qmamba-small": 49_379_521,
    "qmamba-base": 87_533_825,
    "lqmamba-tiny": 29_877_841,
    "lqmamba-small": 52_912_369,
    "lqmamba-base": 93_792_577,
}
GFLOPS_IN_PAPERS_CONVENTION = {
    "qmamba-tiny": 4.47117,
    "qmamba-small": 8.71501,
    "qmamba-base": 15.35792,
    "lqmamba-tiny": 4.44550,
    "lqmamba-small": 8.66270,
    "lqmamba-base": 15.30224,
}
# Millions of parameters and GFLOPs as printed in the paper, which cuts and does not round.
PRINTED = {
    "qmamba-tiny": ("27.99", "4.47"),
    "qmamba-small": ("49.37", "8.71"),
    "qmamba-base": ("87.53", "15.35"),
    "lqmamba-tiny": ("29.87", "4.44"),
    "lqmamba-small": ("52.91", "8.66"),
    "lqmamba-base": ("93.79", "15.30"),
}
COMPLETE_GFLOPS = {
    "lqmamba-tiny": "4.5497",
    "lqmamba-small": "8.8331",
    "lqmamba-base": "15.5295",
}


def cut(number: float) -> str:
    """Two decimals, not rounded."""
    return f"{int(number * 100) / 100:.2f}"


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    count = count_parameters(model_config(name))
    assert count == PARAMETERS[name]
    assert cut(count / 1e6) == PRINTED[name][0]


@pytest.mark.parametrize("name", GFLOPS_IN_PAPERS_CONVENTION)
def test_flops_as_the_paper_counts_them(name: str) -> None:
    gflops = count_flops(model_config(name), 224, 224).paper / 1e9
    assert gflops == pytest.approx(GFLOPS_IN_PAPERS_CONVENTION[name], abs=1e-5)
    assert cut(gflops) == PRINTED[name][1]


@pytest.mark.parametrize("name", COMPLETE_GFLOPS)
def test_flops_with_the_scan(name: str) -> None:
    report = count_flops(model_config(name))
    assert f"{report.total / 1e9:.4f}" == COMPLETE_GFLOPS[name]
    assert report.total == report.paper + report.scan == report.without_scan + report.scan


def test_the_paper_counts_the_scan_of_qmamba_only() -> None:
    assert count_flops(model_config("qmamba-tiny")).scan_in_paper
    assert not count_flops(model_config("lqmamba-tiny")).scan_in_paper


@pytest.mark.parametrize("windows", [(2, 4, 7, 8), (7, 7, 2, 2), (2, 2, 2, 2), (8, 8, 14, 7)])
def test_other_windows_that_print_the_same_flops(windows: tuple[int, ...]) -> None:
    for name in ("lqmamba-tiny", "lqmamba-small", "lqmamba-base"):
        report = count_flops(model_config(name, windows=windows))
        assert cut(report.paper / 1e9) == PRINTED[name][1]


def test_counts_agree_with_the_layers_that_run() -> None:
    model = build(MICRO)
    counted = {"convolution": 0, "linear": 0, "normalization": 0}

    def watch(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            counted["convolution"] += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            counted["linear"] += output.numel() * module.in_features
        elif isinstance(module, nn.LayerNorm):
            counted["normalization"] += 5 * output.numel()
        elif isinstance(module, SS2D):
            pixels = output.shape[1] * output.shape[2]
            counted["linear"] += pixels * module.x_proj_weight.numel()
            counted["linear"] += pixels * module.dt_projs_weight.numel()

    for module in model.modules():
        module.register_forward_hook(watch)
    model(images(1, 3, 75, 53))
    report = count_flops(model, 75, 53)
    assert report.convolution == counted["convolution"]
    assert report.linear == counted["linear"]
    assert report.normalization == counted["normalization"] + 3 * 2 * 128
    assert report.gate == 0


def test_cost_is_linear_in_pixels() -> None:
    small, large = count_flops(MICRO, 64, 64), count_flops(MICRO, 128, 128)
    assert large.convolution == 4 * small.convolution
    assert large.scan == 4 * small.scan


def test_a_model_counts_like_its_config() -> None:
    model = build(LOCAL_MICRO)
    assert count_flops(model, 96, 64) == count_flops(LOCAL_MICRO, 96, 64)
    assert count_parameters(model) == count_parameters(LOCAL_MICRO)


def test_small_models_fit_on_ten_megabytes() -> None:
    for name in ("qmamba-nano", "lqmamba-nano"):
        assert 2 * count_parameters(named_configs()[name]) < 10 * 2**20


def test_an_empty_image_is_an_error() -> None:
    with pytest.raises(ShapeError, match="0 x 224"):
        count_flops(MICRO, 0, 224)
