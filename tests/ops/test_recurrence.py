"""The linear recurrence against a loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qmamba.ops.scan import recurrence
from qmamba.ops.scan.recurrence import chunk_length, linear_recurrence_


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
def test_long_sequences_equal_the_loop(steps: int) -> None:
    decay, value = random_pair(2, steps, 3)
    expected = loop(decay.transpose(0, 1), value.transpose(0, 1)).transpose(0, 1)
    torch.testing.assert_close(linear_recurrence_(decay, value), expected)


def test_decays_of_zero_and_one_are_exact() -> None:
    ones = torch.ones(1, 1000, 2)
    counted = torch.arange(1.0, 1001.0)[None, :, None].expand(-1, -1, 2)
    assert torch.equal(linear_recurrence_(ones, ones.clone()), counted)
    assert torch.equal(linear_recurrence_(torch.zeros_like(ones), ones.clone()), ones)


def test_tiny_decays_neither_overflow_nor_produce_nan() -> None:
    decay = torch.full((1, 4000, 3), 1e-30)
    value = torch.full((1, 4000, 3), 1e20)
    torch.testing.assert_close(linear_recurrence_(decay, value.clone()), value)


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
