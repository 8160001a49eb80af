"""Layers in training: the kernel beside PyTorch's in float64, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qmamba.ops.layers import depthwise_convolution, gated_norm, layer_norm, linear
from qmamba.ops.native import library

pytestmark = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)

Layer = Callable[..., Tensor]


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=random) for shape in shapes]


def results(layer: Layer, values: list[Tensor]) -> list[Tensor]:
    """The output of a layer and the gradient for each of its tensors."""
    leaves = [value.clone().requires_grad_() for value in values]
    y = layer(*leaves)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        scale = other.abs().max().clamp_min(0.1)
        assert ((one.double() - other).abs().max() <= tolerance * scale).item()


def assert_fits(layer: Layer, values: list[Tensor], tolerance: float = 2e-6) -> None:
    """The kernel's float32 beside PyTorch's float64, on one thread and on three."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        found = results(layer, values)
        torch.set_num_threads(3)
        again = results(layer, values)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    expected = results(layer, [value.double() for value in values])
    assert_close(found, expected, tolerance)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [(1, 1, 1), (7, 3, 5), (130, 32, 40), (515, 72, 144), (70, 1024, 33), (300, 50, 513)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_linear(rows: int, inputs: int, outputs: int, bias: bool) -> None:
    values = tensors((rows, inputs), (outputs, inputs), (outputs,))
    assert_fits(linear, values if bias else values[:2], 5e-6)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 200),
    inputs=st.integers(1, 120),
    outputs=st.integers(1, 120),
    seed=st.integers(0, 99),
)
def test_linear_of_any_size(rows: int, inputs: int, outputs: int, seed: int) -> None:
    assert_fits(linear, tensors((2, rows, inputs), (outputs, inputs), (outputs,), seed=seed), 5e-6)


def test_linear_gives_only_the_gradients_that_are_wanted() -> None:
    x, weight, bias = tensors((9, 20), (17, 20), (17,))
    weight.requires_grad_()
    (grad,) = torch.autograd.grad(linear(x, weight, bias).square().sum(), [weight])
    assert torch.allclose(grad, 2 * F.linear(x, weight, bias).T @ x, rtol=1e-4, atol=1e-3)
    weight = weight.detach()
    x.requires_grad_()
    (grad,) = torch.autograd.grad(linear(x, weight).sum(), [x])
    assert torch.allclose(grad, weight.sum(0).expand_as(x), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("shape", [(1, 1), (5, 16), (2, 3, 37, 32), (600, 60), (9, 771), (3, 9000)])
def test_layer_norm(shape: tuple[int, ...]) -> None:
    x, weight, bias = tensors(shape, shape[-1:], shape[-1:])
    # A single channel is its own mean: what remains of it is rounding.
    if shape[-1] > 1:
        assert_fits(lambda *t: layer_norm(*t, 1e-4), [3 * x + 1, weight, bias], 1e-5)
    else:
        assert_fits(lambda *t: layer_norm(*t, 1e-4), [x, weight, bias])


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("shape", [(1, 2, 3, 4), (2, 9, 17, 48), (1, 30, 11, 33)])
def test_gated_norm_with_a_slice_as_its_gate(shape: tuple[int, ...]) -> None:
    channels = shape[-1]
    x, wide, weight, bias = tensors(shape, (*shape[:-1], 2 * channels), shape[-1:], shape[-1:])
    assert_fits(
        lambda x, wide, *t: gated_norm(x, *t, wide[..., channels:], 1e-5),
        [x, wide, weight, bias],
        1e-5,
    )


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 600), channels=st.integers(2, 90), seed=st.integers(0, 99))
def test_norms_of_any_size(rows: int, channels: int, seed: int) -> None:
    values = tensors((rows, channels), (channels,), (channels,), (rows, channels), seed=seed)
    assert_fits(lambda *t: layer_norm(*t, 1e-3), values[:3], 2e-5)
    assert_fits(lambda *t: gated_norm(*t, 1e-3), values, 2e-5)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("activation", ["none", "silu", "gelu"])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 19, 7, 24), (1, 3, 40, 16), (1, 12, 9, 37)])
def test_depthwise(shape: tuple[int, ...], dilation: int, activation: str) -> None:
    values = tensors(shape, (shape[-1], 1, 3, 3), shape[-1:])
    assert_fits(
        lambda *t: depthwise_convolution(*t, dilation=dilation, activation=activation), values, 5e-6
    )


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    channels=st.integers(1, 50),
    dilation=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_depthwise_of_any_size_on_a_slice(
    height: int, width: int, channels: int, dilation: int, seed: int
) -> None:
    values = tensors((2, height, width, 2 * channels), (channels, 1, 3, 3), seed=seed)
    assert_fits(
        lambda x, *t: depthwise_convolution(
            x[..., :channels], *t, dilation=dilation, activation="silu"
        ),
        values,
        5e-6,
    )


@pytest.mark.usefixtures("instruction_set")
def test_maps_in_bfloat16_are_computed_in_float32() -> None:
    x, window, weight, bias = tensors((2, 9, 8, 40), (40, 1, 3, 3), (40,), (40,))
    x = x.bfloat16()
    for layer, values in (
        (lambda *t: layer_norm(*t, 1e-5), [x, weight, bias]),
        (lambda x, *t: gated_norm(x, *t, x, 1e-5), [x, weight, bias]),
        (lambda *t: depthwise_convolution(*t, dilation=2, activation="gelu"), [x, window, bias]),
    ):
        found = results(layer, values)
        assert [each.dtype for each in found[:2]] == [torch.bfloat16] * 2
        assert all(each.dtype is torch.float32 for each in found[2:])
        assert_close(found, results(layer, [value.double() for value in values]), 1e-2)


@pytest.mark.parametrize("backend", ["native", "naive"])
def test_a_dilated_window_has_its_gradient_in_bfloat16(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QMAMBA_BACKEND", backend)
    x, window = tensors((4, 16, 16, 32), (32, 1, 3, 3))

    def layer(x: Tensor, window: Tensor) -> Tensor:
        return depthwise_convolution(x, window, dilation=2)

    expected = results(layer, [x.double(), window.double()])
    for fill in (0.0, 1e30):
        # What a fresh block of memory may hold.
        for size in range(4, 18):
            torch.full((1 << size,), fill)
        with torch.autocast("cpu", torch.bfloat16):
            found = results(layer, [x, window])
        assert_close(found, expected, 2e-2)


def test_layers_without_a_gradient_are_those_of_torch() -> None:
    x, weight, bias = tensors((5, 24), (24, 24), (24,))
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    assert torch.equal(layer_norm(x, bias, bias, 1e-5), F.layer_norm(x, (24,), bias, bias, 1e-5))


def test_recorded_graphs_and_transforms_see_the_operators_of_torch() -> None:
    x, weight, bias = tensors((5, 24), (24, 24), (24,))
    found = torch.func.grad(lambda w: linear(x, w, bias).square().sum())(weight)
    assert torch.allclose(found, 2 * F.linear(x, weight, bias).T @ x, rtol=1e-4, atol=1e-3)
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(weight)
    module.forward = lambda x: linear(x, module.weight)
    assert "aten::linear" in str(torch.jit.trace(module, (x,)).graph)


@pytest.mark.parametrize("change", [-1, 1])
def test_parameters_that_do_not_fit_are_refused(change: int) -> None:
    x, channels = torch.ones(1, 4, 4, 20, requires_grad=True), 20 + change
    bias = torch.ones(channels)
    with pytest.raises((RuntimeError, ValueError)):
        linear(x, torch.ones(20, 20), bias)
    with pytest.raises((RuntimeError, ValueError)):
        linear(x, torch.ones(20), bias)
    # A bias with the same number of vectors reached the kernel, which took zeros for the rest.
    with pytest.raises((RuntimeError, ValueError)):
        depthwise_convolution(x, torch.ones(20, 1, 3, 3), bias)
    with pytest.raises((RuntimeError, ValueError)):
        layer_norm(x, torch.ones(20), bias, 1e-5)
