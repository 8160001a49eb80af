from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qmamba.errors import BackendError, ConfigError
from qmamba.quantization import (
    BITS,
    DLS,
    QUANTIZERS,
    RFA,
    Operand,
    Static,
    create_quantizer,
)
from tests.quantization.samples import KINDS, OPERANDS, data, started


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("role", OPERANDS)
@pytest.mark.parametrize("name", QUANTIZERS)
def test_values_are_those_of_the_codes(name: str, role: str, bits: int) -> None:
    x = data("gauss", 3, 40)
    quantizer = started(name, bits, role, x).eval()
    y, qparams, codes = quantizer(x), quantizer.choose_qparams(x), quantizer.quantize(x)
    torch.testing.assert_close(qparams.dequantize(codes), y.detach(), rtol=0, atol=1e-6)
    assert int(codes.min()) >= qparams.low and int(codes.max()) <= qparams.high
    assert qparams.high - qparams.low < 2**bits
    assert len(codes.unique()) > min(2**bits, 8) / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", OPERANDS)
@pytest.mark.parametrize("name", QUANTIZERS)
def test_no_data_give_nan(name: str, role: str, kind: str) -> None:
    for bits in (2, 4):
        x = data(kind, 2, 30).requires_grad_()
        quantizer = create_quantizer(name, bits, OPERANDS[role])
        y = quantizer(x)
        y.sum().backward()
        results = [y, x.grad, *(p.grad for p in quantizer.parameters() if p.requires_grad)]
        assert all(t is not None and bool(t.isfinite().all()) for t in results)


@pytest.mark.parametrize("name", ["dls", "static", "rfa", "lsq+", "minmax"])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.3, 1e-20])
def test_a_constant_stays_what_it_is(name: str, value: float) -> None:
    x = torch.full((2, 7), value)
    torch.testing.assert_close(started(name, 2, "activation", x)(x), x)


@pytest.mark.parametrize("kind", ["gauss", "positive", "negative", "heavy"])
@pytest.mark.parametrize("bits", [2, 4])
def test_the_initialization_is_close_to_the_best(kind: str, bits: int) -> None:
    x = data(kind, 1, 1000)
    lows = (x.median() + (x.min() - x.median()) * torch.linspace(0.02, 1, 50)).view(-1, 1, 1)
    highs = (x.median() + (x.max() - x.median()) * torch.linspace(0.02, 1, 50)).view(-1, 1)
    steps = (highs - lows) / (2**bits - 1)
    levels = ((x - lows) / steps).round().clamp(0, 2**bits - 1) * steps + lows
    best = (levels - x).square().mean(-1).min()
    for name in ("static", "rfa", "dls"):
        error = (started(name, bits, "activation", x)(x) - x).square().mean()
        assert error < 1.1 * best


def test_dynamic_statistics_follow_another_scale() -> None:
    x = data("gauss", 1, 500)
    quantizer = started("dls", 4, "activation", x)
    torch.testing.assert_close(quantizer(100 * x), 100 * quantizer(x), rtol=1e-5, atol=1e-4)


@given(
    bits=st.sampled_from(BITS),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    statistics=st.sampled_from(["sample", "batch", "frozen"]),
    name=st.sampled_from(sorted(QUANTIZERS)),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_keeps_its_shape_and_range(
    bits: int, shape: list[int], statistics: str, name: str, seed: int
) -> None:
    x = data("gauss", *shape, seed=seed).transpose(0, -1)
    quantizer = create_quantizer(name, bits, Operand(), statistics=statistics)
    y = quantizer(x)
    assert y.shape == x.shape and bool(y.isfinite().all())
    if name == "dls":
        assert bool((y >= x.min()).all()) and bool((y <= x.max()).all())
    quantizer.eval()
    torch.testing.assert_close(
        quantizer.choose_qparams(x).dequantize(quantizer.quantize(x)), quantizer(x).detach()
    )


@given(seed=st.integers(0, 1000), size=st.floats(0.1, 30))
@settings(max_examples=30, deadline=None)
def test_rfa_thresholds_stay_in_order(seed: int, size: float) -> None:
    quantizer = RFA(4)
    with torch.no_grad():
        quantizer.gaps.add_(size * torch.randn(15, generator=torch.Generator().manual_seed(seed)))
    assert bool((quantizer.points().diff() > 0).all())


def test_a_step_held_by_its_limit_can_come_back() -> None:
    x = data("gauss", 1, 400)
    quantizer = DLS(4)
    quantizer(x)
    with torch.no_grad():
        quantizer.step_weights.fill_(5.0)
    (quantizer(x) - x).square().sum().backward()
    # Descent shrinks a step that is held because it is too wide.
    assert quantizer.step_weights.grad is not None and quantizer.step_weights.grad[1] > 0


@pytest.mark.parametrize("statistics", ["sample", "frozen"])
def test_an_image_does_not_depend_on_its_batch(statistics: str) -> None:
    x = data("gauss", 4, 6, 7) * torch.tensor([1.0, 5.0, 0.1, 30.0]).view(4, 1, 1)
    quantizer = started("dls", 3, "activation", x, statistics=statistics).eval()
    alone = torch.cat([quantizer(image[None]) for image in x])
    torch.testing.assert_close(alone, quantizer(x), rtol=1e-5, atol=1e-6)


def test_batch_statistics_do_depend_on_the_batch() -> None:
    x = data("gauss", 2, 50) * torch.tensor([[1.0], [20.0]])
    quantizer = started("dls", 3, "activation", x, statistics="batch").eval()
    assert not torch.allclose(quantizer(x[:1]), quantizer(x)[:1])


def test_frozen_statistics_are_fixed_in_evaluation_and_follow_in_training() -> None:
    x = data("gauss", 2, 200)
    quantizer = DLS(4, statistics="frozen")
    quantizer(x)
    before = quantizer.running.clone()
    quantizer.eval()
    wide = quantizer(10 * x)
    assert torch.equal(quantizer.running, before)
    assert wide.abs().max() <= x.abs().max()
    quantizer.train()
    quantizer(10 * x)
    assert quantizer.running[1] > 1.5 * before[1]


def test_activations_need_data_before_evaluation_and_weights_do_not() -> None:
    x = data("gauss", 2, 5)
    with pytest.raises(ConfigError, match="no data"):
        Static(4).eval()(x)
    assert RFA(4, Operand.weight()).eval()(x).shape == x.shape


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_come_back(name: str, dtype: torch.dtype) -> None:
    x = data("gauss", 3, 40).to(dtype)
    y = started(name, 4, "activation", x)(x)
    assert y.dtype == dtype
    assert (y - x).float().square().mean() < 0.2


@pytest.mark.parametrize("role", OPERANDS)
@pytest.mark.parametrize("name", QUANTIZERS)
def test_two_passes_may_precede_their_backward(name: str, role: str) -> None:
    x = data("gauss", 3, 40).requires_grad_()
    quantizer = create_quantizer(name, 4, OPERANDS[role])
    first = quantizer(x).sum()
    (first + quantizer(2 * x).sum()).backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())


@pytest.mark.parametrize("name", QUANTIZERS)
def test_state_dict_round_trip(name: str) -> None:
    x = data("gauss", 3, 40)
    quantizer = started(name, 4, "activation", x)
    other = create_quantizer(name, 4, Operand())
    other.load_state_dict(quantizer.state_dict())
    assert other.ready
    assert torch.equal(other.eval()(x), quantizer.eval()(x))


def test_weights_without_quantizers_make_them_start_again() -> None:
    x = data("gauss", 3, 40)
    quantizer = started("static", 4, "activation", x)
    quantizer.load_state_dict({}, strict=False)
    assert not quantizer.ready


def test_all_processes_take_over_the_start_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    first = started("static", 4, "activation", data("gauss", 50))
    sent = iter([*first.parameters(), *first.buffers()])

    def receive(tensor: Tensor, src: int) -> None:
        assert src == 0
        tensor.copy_(next(sent).detach())

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "broadcast", receive)
    second = Static(4)
    second(data("heavy", 50))
    ours, theirs = second.state_dict(), first.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    # A weight is the same everywhere; one process alone may start its quantizer.
    RFA(4, Operand.weight())(data("gauss", 50))


@pytest.mark.parametrize("bits", [1, 5, 16, True, "4"])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(ConfigError, match="bits"):
        DLS(bits)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown"):
        create_quantizer("lsqq", 4, Operand())
    with pytest.raises(ConfigError, match="statistics"):
        DLS(4, statistics="global")
    with pytest.raises(ConfigError, match="compat"):
        create_quantizer("pams", 4, Operand(), compat=True)


@pytest.mark.parametrize("role", OPERANDS)
@pytest.mark.parametrize("name", ["dls", "lsq", "lsq+", "quantsr", "rfa", "static"])
def test_second_derivatives_are_refused_and_never_left_out(name: str, role: str) -> None:
    x = data("gauss", 2, 30).requires_grad_()
    quantizer = started(name, 4, role, x.detach())
    (first,) = torch.autograd.grad(quantizer(x).square().sum(), x, create_graph=True)
    with pytest.raises(BackendError, match="first derivatives backwards and no others"):
        torch.autograd.grad((first + x.square()).sum(), x)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f, x: torch.func.grad(lambda values: f(values).sum())(x),
        lambda f, x: torch.vmap(f)(x),
        lambda f, x: torch.func.jvp(f, (x,), (x,)),
        lambda f, x: torch.func.jacrev(f)(x),
    ],
    ids=["grad", "vmap", "jvp", "jacrev"],
)
@pytest.mark.parametrize("name", QUANTIZERS)
def test_torch_func_is_refused_in_one_sentence(name: str, transform: Any) -> None:
    x = data("gauss", 2, 30)
    with pytest.raises(BackendError, match="takes no part in"):
        transform(started(name, 4, "activation", x), x)
