from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qmamba.checkpoints.bit_packing import pack, packed_size, unpack
from qmamba.errors import ConfigError, ShapeError
from qmamba.quantization import BITS


@st.composite
def code_tensors(draw: st.DrawFn) -> tuple[int, torch.Tensor]:
    bits = draw(st.sampled_from(BITS))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    values = draw(st.lists(st.integers(low, high), max_size=70))
    return bits, torch.tensor(values, dtype=torch.int8)


@settings(deadline=None)
@given(code_tensors())
def test_codes_come_back_exactly(case: tuple[int, torch.Tensor]) -> None:
    bits, codes = case
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (packed_size(len(codes), bits),)
    assert torch.equal(unpack(packed, bits, (len(codes),)), codes)


@pytest.mark.parametrize("bits", BITS)
def test_every_code_of_every_width_keeps_its_place_and_shape(bits: int) -> None:
    codes = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)).to(torch.int8)
    codes = codes.repeat(3).view(3, -1)
    assert torch.equal(unpack(pack(codes, bits), bits, tuple(codes.shape)), codes)


def test_the_layout_is_the_documented_one() -> None:
    assert pack(torch.tensor([-8, 7, 0], dtype=torch.int8), 4).tolist() == [0x0F, 0x80]
    assert pack(torch.tensor([1, -2, 0, -1], dtype=torch.int8), 2).tolist() == [0b11001001]
    assert pack(torch.tensor([3, -4, -1], dtype=torch.int8), 3).tolist() == [0b11100001, 0b10000000]
    assert pack(torch.tensor([-128, 127], dtype=torch.int8), 8).tolist() == [0, 255]


def test_sizes_are_whole_bytes() -> None:
    assert [packed_size(9, bits) for bits in BITS] == [3, 4, 5, 9]
    assert packed_size(0, 3) == 0


def test_unusable_codes_are_refused() -> None:
    with pytest.raises(ShapeError, match="from -2 to 1, got -1 to 2"):
        pack(torch.tensor([-1, 2], dtype=torch.int8), 2)
    with pytest.raises(ShapeError, match="int8"):
        pack(torch.tensor([1]), 4)
    with pytest.raises(ConfigError, match="not 5"):
        pack(torch.tensor([1], dtype=torch.int8), 5)


@pytest.mark.parametrize(
    ("content", "bits", "shape"),
    [([1], 4, (3,)), ([1, 2, 3], 4, (3,)), ([0, 1], 4, (3,)), ([1, 1], 3, (5,)), ([1], 2, (3,))],
)
def test_altered_bytes_are_refused(content: list[int], bits: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"take uint8|after the last"):
        unpack(torch.tensor(content, dtype=torch.uint8), bits, shape)
