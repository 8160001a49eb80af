"""The C++ kernel as operators of ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qmamba.errors import BackendError
from qmamba.interop.onnx import operator_library
from qmamba.interop.onnx.functions import MERGED, ROUTES
from qmamba.interop.onnx.verification import open_session
from qmamba.ops import scan_routes, ss2d
from tests.interop.onnx.samples import run_session, scan_model, scan_operands


@pytest.fixture(scope="module")
def library() -> Path:
    try:
        return operator_library()
    except BackendError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("name", "states", "window"),
    [(MERGED, 1, 1), (ROUTES, 1, 1), (MERGED, 3, 1), (ROUTES, 2, 4), (MERGED, 1, 3)],
)
def test_an_operator_is_the_definition(name: str, states: int, window: int, library: Path) -> None:
    model = scan_model(name, states=states, window=window, opset=21)
    # Without a body there is nothing but the operator to run.
    del model.functions[:]
    session = open_session(model.SerializeToString(), threads=1, operators=library)
    for batch, height, width, channels in ((1, 1, 1, 1), (2, 7, 5, 20), (1, 9, 16, 32)):
        operands = scan_operands(batch, height, width, channels, 2, states)
        expected = ss2d(
            operands["x"].flatten(1, 2),
            operands["projected"].flatten(1, 2).unflatten(-1, (4, -1)),
            scan_routes(height, width, window),
            *(operands[key] for key in ("dt_weight", "dt_bias", "A", "D")),
            merge=name == MERGED,
            backend="naive",
        )
        found = run_session(session, **operands)
        assert found.shape[-3:] == operands["x"].shape[1:]
        torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)


def test_a_registered_operator_goes_before_the_body(library: Path) -> None:
    model = scan_model(MERGED, states=1, window=1, opset=21)
    for function in model.functions:
        if function.name == MERGED:
            function.node[-1].op_type = "Sub"
    operands = scan_operands(1, 6, 5, 8, 2, 1)
    content = model.SerializeToString()
    wrong = run_session(open_session(content, threads=1), **operands)
    right = run_session(open_session(content, threads=1, operators=library), **operands)
    assert not torch.allclose(wrong, right, atol=1e-2)


def test_operands_that_do_not_fit_are_refused(library: Path) -> None:
    model = scan_model(MERGED, states=1, window=1, opset=21)
    session = open_session(model.SerializeToString(), threads=1, operators=library)
    operands = scan_operands(1, 6, 5, 8, 2, 1)
    operands["projected"] = operands["projected"][..., :-1].contiguous()
    with pytest.raises(Exception, match="operands of the scan do not fit together"):
        run_session(session, **operands)
