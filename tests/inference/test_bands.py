"""Prepared restoration networks band by band against the same networks on whole maps."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qmamba.inference import bands, prepare
from qmamba.inference.bands import Bands, margin_of
from qmamba.inference.precision import Precision
from qmamba.ops.native import library, memory
from qmamba.ops.native.memory import Buffers
from tests.models.micro_mambair import VARIANTS, build, images

needs_kernel = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)


def blurred(side: int, dilation: int, x: Tensor) -> Tensor:
    weight = torch.ones(x.shape[-1], 1, side, side)
    margin = side // 2 * dilation
    groups = x.shape[-1]
    y = nn.functional.conv2d(
        x.permute(0, 3, 1, 2), weight, padding=margin, dilation=dilation, groups=groups
    )
    return y.permute(0, 2, 3, 1)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 40),
    width=st.integers(1, 7),
    side=st.sampled_from([1, 3, 5]),
    dilation=st.integers(1, 2),
    values=st.integers(1, 64),
    named=st.booleans(),
)
def test_bands_give_what_the_whole_map_gives(
    batch: int, height: int, width: int, side: int, dilation: int, values: int, named: bool
) -> None:
    x = torch.randint(0, 9, (batch, height, width, 2)).float()

    def layer(x: Tensor) -> Tensor:
        return blurred(side, dilation, blurred(side, dilation, x))

    margin = 2 * (side // 2) * dilation
    banded = Bands(layer, Buffers(), "place" if named else None, margin=margin)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "_VALUES", values)
        patch.setattr(bands, "_LEAST_MARGINS", 1)
        assert torch.equal(banded(x), layer(x))


def test_the_margin_is_what_convolutions_look_at() -> None:
    layers = [nn.Conv2d(2, 2, 3), nn.Sequential(nn.GELU(), nn.Conv2d(2, 2, 5, dilation=2))]
    assert margin_of(*layers) == 1 + 4
    assert margin_of(nn.GELU(), nn.Conv2d(2, 2, 1)) == 0


@needs_kernel
@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_networks_in_bands(
    variant: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(VARIANTS[variant])
    x = images(2, model.config.channels, 37, 21)
    whole = prepare(model, precision)(x)
    monkeypatch.setattr(bands, "_VALUES", 512)
    monkeypatch.setattr(bands, "_LEAST_MARGINS", 1)
    network = prepare(model, precision)
    first = network(x)
    kept = first.clone()
    other = network(x.flip(0))
    # What an earlier call has given is nobody's working memory.
    assert torch.equal(first, kept) and torch.equal(other, first.flip(0))
    tolerance = 0.02 if precision == "bf16" else 1e-4
    assert (first - whole).abs().max() <= tolerance * whole.abs().max()


@needs_kernel
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_threads_have_places_of_their_own(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "_VALUES", 512)
    network = prepare(build(VARIANTS["denoise"]), precision)
    inputs = [images(1, 3, 30 + 3 * i, 17 + i) for i in range(4)]
    expected = [network(x) for x in inputs]
    found: dict[int, list[Tensor]] = {}

    def work(index: int) -> None:
        found[index] = [network(inputs[index]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, results in found.items():
        assert all(torch.equal(result, expected[index]) for result in results)
    assert len(found) == 4


@needs_kernel
def test_nothing_large_is_left_after_a_call_or_an_exception(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "KEPT_BYTES", 1000)
    monkeypatch.setattr(library, "_KEPT_WORKSPACE_BYTES", 1000)
    monkeypatch.setattr(bands, "_VALUES", 512)
    network = prepare(build(VARIANTS["denoise"]))
    places = network._buffers._places()  # type: ignore[attr-defined]
    kept = library.load_kernel()._kept
    network(images(1, 3, 30, 20))
    assert all(block.numel() <= 1000 for block, _ in places.values())
    assert kept.workspace is None or kept.workspace.numel() <= 1000

    def stopped(x: Tensor) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(network, "_after_body", stopped)
    with pytest.raises(KeyboardInterrupt):
        network(images(1, 3, 30, 20))
    assert all(block.numel() <= 1000 for block, _ in places.values())
    assert kept.workspace is None or kept.workspace.numel() <= 1000
