"""Prepared networks among the settings of a process: defaults, autocast, changes of the model."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from qmamba import Restorer, Scorer, create_model, load
from qmamba.errors import ConfigError
from qmamba.inference import prepare
from qmamba.models import Network

PACKED = "mambair-nano-x2-w4a4"


def image(side: int = 24) -> Tensor:
    return torch.rand(
        (1, 3, side, side + 4),
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float32,
        device="cpu",
    )


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float16": lambda: default_dtype(torch.float16),
    "float64": lambda: default_dtype(torch.float64),
    # Stands in for another device where there is none.
    "meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", [PACKED, "qmamba-nano-biq2021"])
def test_settings_of_the_process_change_no_bit(setting: str, name: str) -> None:
    model = load(name)
    network = prepare(model)
    x = image(32)
    expected = network(x)
    with SETTINGS[setting]():
        assert torch.equal(network(x), expected)
        assert torch.equal(prepare(model)(x), expected)
        if setting != "meta":
            assert torch.equal(prepare(load(name))(x), expected)


def pixels() -> np.ndarray:
    return (255 * image()[0].permute(1, 2, 0)).byte().numpy()


@pytest.mark.parametrize("make", [Restorer.from_pretrained, lambda: Restorer(fresh())])
def test_restorers_can_be_pickled_and_copied(make: Callable[[], Restorer]) -> None:
    restorer = make()
    expected = restorer.restore(pixels()).pixels
    for copied in (pickle.loads(pickle.dumps(restorer)), copy.deepcopy(restorer)):
        assert np.array_equal(copied.restore(pixels()).pixels, expected)


def fresh() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_model("mambair-nano-x2")


def test_prepared_networks_say_that_they_stay_in_their_process() -> None:
    for network in (prepare(load(PACKED)), prepare(fresh())):
        for copying in (pickle.dumps, copy.deepcopy):
            with pytest.raises(ConfigError, match="cannot be pickled or copied"):
                copying(network)


def test_a_prepared_network_keeps_the_weights_of_its_moment() -> None:
    model = load(PACKED)
    network = prepare(model)
    x = image()
    expected = network(x)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    bias = next(key for key in state if key.startswith("upsample") and key.endswith("bias"))
    state[bias] += 0.25
    model.load_state_dict(state)
    assert torch.equal(network(x), expected)
    moved = prepare(model)(x) - expected
    assert abs(float(moved.mean()) - 0.25) < 1e-3
    with torch.no_grad():
        assert abs(float((model(x) - expected).mean()) - 0.25) < 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted(dtype: torch.dtype) -> None:
    model = load(PACKED)
    network = prepare(model)
    x = image()
    expected = network(x)
    model.to(dtype)
    assert torch.equal(network(x), expected)
    # Weights that were rounded to half precision, computed in float32 on codes.
    rounded = prepare(model, "codes")(x)
    assert torch.equal(rounded, prepare(copy.deepcopy(model).float(), "codes")(x))
    assert (rounded - expected).abs().max() < 0.3
    with torch.no_grad():
        first = model(x.to(dtype))
        assert torch.isfinite(first).all() and torch.equal(model(x.to(dtype)), first)


def test_a_packed_network_has_gradients_as_a_loss() -> None:
    model = load(PACKED)
    x = image().requires_grad_()
    model(x).square().mean().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and float(x.grad.abs().sum()) > 0


def test_scores_under_autocast_are_those_without() -> None:
    scorer = Scorer.from_pretrained()
    expected = scorer(pixels()).raw
    with torch.autocast("cpu", torch.bfloat16):
        assert scorer(pixels()).raw == expected
