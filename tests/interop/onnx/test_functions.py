"""The scan as model-local functions against its definition."""

from __future__ import annotations

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qmamba.interop.onnx.functions import (
    DOMAIN,
    MERGED,
    MERGED_GIVEN_DELTA,
    ROUTES,
    ROUTES_GIVEN_DELTA,
    scan_functions,
)
from qmamba.interop.onnx.verification import open_session
from qmamba.ops import scan_routes, ss2d
from tests.interop.onnx.samples import (
    GIVEN_DELTA,
    run_session,
    scan_model,
    scan_operands,
    with_given_delta,
)

CASES = [
    (MERGED, 1, 1, 21),
    (ROUTES, 1, 1, 21),
    (MERGED, 3, 1, 21),
    (ROUTES, 2, 1, 23),
    (MERGED, 1, 3, 20),
    (ROUTES, 1, 4, 18),
    (MERGED, 4, 2, 18),
    (MERGED_GIVEN_DELTA, 1, 1, 21),
    (MERGED_GIVEN_DELTA, 3, 2, 18),
    (ROUTES_GIVEN_DELTA, 1, 3, 21),
    (ROUTES_GIVEN_DELTA, 2, 1, 23),
]


@pytest.fixture(scope="module")
def sessions() -> dict[tuple[str, int, int, int], object]:
    found = {}
    for name, states, window, opset in CASES:
        model = scan_model(name, states=states, window=window, opset=opset)
        onnx.checker.check_model(model, full_check=True)
        found[name, states, window, opset] = open_session(model.SerializeToString(), threads=1)
    return found


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from(CASES),
    batch=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(1, 9),
    rank=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_a_function_is_the_definition(
    sessions: dict[tuple[str, int, int, int], object],
    case: tuple[str, int, int, int],
    batch: int,
    height: int,
    width: int,
    channels: int,
    rank: int,
    seed: int,
) -> None:
    name, states, window, _ = case
    operands = scan_operands(batch, height, width, channels, rank, states, seed)
    expected = ss2d(
        operands["x"].flatten(1, 2),
        operands["projected"].flatten(1, 2).unflatten(-1, (4, -1)),
        scan_routes(height, width, window),
        *(operands[key] for key in ("dt_weight", "dt_bias", "A", "D")),
        merge=name in (MERGED, MERGED_GIVEN_DELTA),
        backend="naive",
    )
    if name in GIVEN_DELTA:
        operands = with_given_delta(operands, states)
    found = run_session(sessions[case], **operands)
    assert found.shape[-3:] == operands["x"].shape[1:]
    torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=2e-5, atol=2e-5)


def test_a_long_scan_forgets_what_has_decayed() -> None:
    """A decay of zero within a row must neither stop the carried state nor poison it."""
    session = open_session(
        scan_model(MERGED, states=1, window=1, opset=21).SerializeToString(), threads=1
    )
    operands = scan_operands(1, 40, 40, 4, 2, 1)
    operands["dt_bias"] = torch.full((4, 4), 60.0)
    expected = ss2d(
        operands["x"].flatten(1, 2),
        operands["projected"].flatten(1, 2).unflatten(-1, (4, -1)),
        scan_routes(40, 40, 1),
        *(operands[key] for key in ("dt_weight", "dt_bias", "A", "D")),
        backend="naive",
    )
    found = run_session(session, **operands).reshape(expected.shape)
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("states", [1, 4])
def test_the_bodies_hold_standard_operators_alone(states: int) -> None:
    names = {MERGED, ROUTES, MERGED_GIVEN_DELTA, ROUTES_GIVEN_DELTA}
    functions = scan_functions(21, states=states, windows=True, names=names)
    own = {function.name for function in functions}
    recurrence = "LinearRecurrence" if states == 1 else "SelectiveScan"
    assert own == {"Softplus", recurrence, *names}
    for function in functions:
        for node in function.node:
            assert node.domain in ("", DOMAIN)
            assert node.op_type in own if node.domain else onnx.defs.has(node.op_type)
