"""The linear recurrence against a loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qmamba.errors import ShapeError
from qmamba.ops.scan import recurrence
from qmamba.ops.scan.recurrence import chunk_length, linear_recurrence, linear_recurrence_


def random_pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    decay = torch.rand(*shape, generator=random, dtype=torch.float64)
    return decay, torch.randn(*shape, generator=random, dtype=torch.float64)


def loop(decay: Tensor, value: Tensor, initial: Tensor | None = None) -> Tensor:
    """Along the first axis."""
    states = []
    state = torch.zeros_like(value[0]) if initial is None else initial
    for a, b in zip(decay, value, strict=True):
        state = a * state + b
        states.append(state)
    return torch.stack(states)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 3),
    steps=st.integers(1, 70),
    lanes=st.integers(1, 5),
    starts=st.booleans(),
    reverse=st.booleans(),
)
def test_in_place_recurrence_equals_the_loop(
    rows: int, steps: int, lanes: int, starts: bool, reverse: bool
) -> None:
    decay, value = random_pair(rows, steps, lanes)
    initial = value[:, 0] * 3 if starts else None
    ahead = [t.flip(1) if reverse else t for t in (decay, value)]
    expected = loop(ahead[0].transpose(0, 1), ahead[1].transpose(0, 1), initial).transpose(0, 1)
    if reverse:
        expected = expected.flip(1)
    untouched = decay.clone()
    result = linear_recurrence_(decay, value, initial, reverse)
    assert result is value
    torch.testing.assert_close(result, expected)
    assert torch.equal(decay, untouched)


@pytest.mark.parametrize("steps", [1, 2, 7, 8, 9, 49, 97, 256, 1009])
@pytest.mark.parametrize("dim", [0, 1, -2])
def test_differentiable_recurrence_equals_the_loop(steps: int, dim: int) -> None:
    shape = (steps, 3) if dim == 0 else (2, steps, 3)
    pairs = [[t.requires_grad_() for t in random_pair(*shape)] for _ in range(2)]
    (decay, value), (same_decay, same_value) = pairs
    actual = linear_recurrence(decay, value, dim)
    expected = loop(same_decay.movedim(dim, 0), same_value.movedim(dim, 0)).movedim(0, dim)
    weights = torch.cos(torch.arange(actual.numel(), dtype=torch.float64)).view(shape)
    for output in (actual, expected):
        (output * weights).sum().backward()
    torch.testing.assert_close(actual, expected)
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("steps", [1, 2, 13, 24])
def test_gradcheck(steps: int) -> None:
    pair = [t.requires_grad_() for t in random_pair(steps, 2)]
    assert torch.autograd.gradcheck(linear_recurrence, pair)


def test_decays_of_zero_and_one_are_exact() -> None:
    value = torch.ones(1000, 2)
    ones = torch.ones_like(value)
    counted = torch.arange(1.0, 1001.0)[:, None].expand(-1, 2)
    assert torch.equal(linear_recurrence(ones, value), counted)
    assert torch.equal(linear_recurrence(torch.zeros_like(value), value), value)


def test_tiny_decays_neither_overflow_nor_produce_nan() -> None:
    decay = torch.full((4000, 3), 1e-30)
    value = torch.full((4000, 3), 1e20)
    torch.testing.assert_close(linear_recurrence(decay, value), value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_state_is_float32_whatever_the_input(dtype: torch.dtype) -> None:
    decay, value = (t.to(dtype) for t in random_pair(300, 4))
    result = linear_recurrence(decay, value)
    assert result.dtype == dtype
    expected = loop(decay.float(), value.float())
    torch.testing.assert_close(result.float(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


def test_arguments_are_left_alone_and_may_be_strided() -> None:
    decay, value = (t.transpose(0, 1)[::2] for t in random_pair(3, 100))
    before = value.clone()
    torch.testing.assert_close(linear_recurrence(decay, value), loop(decay, value))
    assert torch.equal(value, before)


def test_wide_sequences_are_walked_in_one_pass() -> None:
    assert chunk_length(3136, 64) < 100
    assert chunk_length(3136, recurrence._WIDE_LANES_CPU) == 3136
    assert chunk_length(3136, recurrence._WIDE_LANES_CPU, "cuda") < 100
    assert chunk_length(5, 1) == 5


@pytest.mark.parametrize("steps", [8, 49, 784, 3136, 65537])
@pytest.mark.parametrize("lanes", [1, 768, 4095])
def test_one_step_of_all_chunks_stays_in_one_thread(steps: int, lanes: int) -> None:
    length = chunk_length(steps, lanes)
    assert 2 <= length <= steps
    assert steps // length * lanes < 32768


@pytest.mark.parametrize(
    ("decay", "value", "dim"), [((3, 2), (3, 1), 0), ((), (), 0), ((2, 0, 3), (2, 0, 3), 1)]
)
def test_unfit_shapes_are_refused(decay: tuple[int, ...], value: tuple[int, ...], dim: int) -> None:
    with pytest.raises(ShapeError):
        linear_recurrence(torch.zeros(decay), torch.zeros(value), dim)
