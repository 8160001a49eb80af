"""Operators and bindings called with what does not fit: a sentence, and never a crash.

Each call here once read or wrote memory that was not its own.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.ops import backends, scan_routes, ss2d, ss2d_given_delta
from qmamba.ops.native import library
from qmamba.ops.native.depthwise import DepthwiseConvolution
from qmamba.ops.native.integer import IntegerCall, PackedCodes
from qmamba.ops.native.maps import ChannelAttentionWeights, attended_sum, layer_norm
from qmamba.ops.native.operands import Constant, QParamsRule, fake_quantize_, quantize
from qmamba.ops.native.prepared_scan import PackedScan
from qmamba.ops.native.quantized_scan import QuantizedScan, ScanRules
from qmamba.ops.native.rounding import (
    DynamicSettings,
    ThresholdSettings,
    dynamic_round,
    threshold_round,
)
from tests.ops.cases import map_inputs, route_tables

pytestmark = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)

NAMES = ("x", "projected", "order", "dt_weight", "dt_bias", "A", "D", "delta")
CPU = [row.name for row in backends() if row.device == "cpu" and row.available]


def arguments() -> dict[str, Any]:
    x, projected, *parameters = (t.float() for t in map_inputs(2, 3, 4, 20, 2, 2))
    tensors = (x, projected, route_tables(3, 4), *parameters, None)
    return dict(zip(NAMES, tensors, strict=True))


def forward(tensors: dict[str, Any], merge: bool = True, save: bool = True) -> Any:
    return torch.ops.qmamba.scan_forward(*tensors.values(), merge, True, save)


BROKEN: dict[str, dict[str, Any]] = {
    "empty map": {"x": torch.zeros(2, 0, 20)},
    "no channels": {"x": torch.zeros(2, 12, 0)},
    "another batch": {"x": torch.zeros(3, 12, 20)},
    "half precision": {"projected": torch.zeros(2, 12, 4, 6, dtype=torch.float16)},
    "float64": {"x": torch.zeros(2, 12, 20, dtype=torch.float64)},
    "short rows": {"projected": torch.zeros(2, 12, 4, 5)},
    "strided": {"projected": torch.zeros(2, 12, 6, 4).transpose(2, 3)},
    "rank beyond": {"dt_weight": torch.zeros(4, 20, 9)},
    "fewer channels": {"dt_weight": torch.zeros(4, 3, 2)},
    "no states": {"A": torch.zeros(4, 20, 0)},
    "more states": {"A": torch.zeros(4, 20, 40)},
    "another rank of A": {"A": torch.zeros(4, 20)},
    "short bias": {"dt_bias": torch.zeros(4, 2)},
    "fewer routes": {"D": torch.zeros(2, 20)},
    "short delta": {"delta": torch.zeros(2, 4, 3, 20)},
    "meta": {"dt_bias": torch.zeros(4, 20, device="meta")},
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("merge", [True, False])
def test_the_operator_checks_its_arguments(broken: str, merge: bool) -> None:
    with pytest.raises(ShapeError):
        forward({**arguments(), **BROKEN[broken]}, merge)


def bad_tables() -> dict[str, Tensor]:
    good = route_tables(3, 4)

    def edited(value: int) -> Tensor:
        table = good.clone()
        table[1, 5] = value
        return table

    return {
        "the number of pixels": edited(12),
        "far away": edited(10**6),
        "below padding": edited(-2),
        "a pixel twice": edited(int(good[1, 4])),
        "int8": good.to(torch.int8),
        "int64": good.long(),
        "float": good.float(),
        "flat": good.flatten(),
    }


@pytest.mark.parametrize("table", bad_tables())
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("backend", [name for name in CPU if name != "triton"])
def test_bad_tables_are_refused_by_every_backend(table: str, merge: bool, backend: str) -> None:
    values = arguments()
    x, projected, _, *parameters = (values[name] for name in NAMES[:-1])
    routes = bad_tables()[table]
    with pytest.raises(ShapeError, match=r"[Rr]oute"):
        ss2d(x, projected, routes, *parameters, merge=merge, backend=backend)
    with pytest.raises(ShapeError, match=r"[Rr]oute"):
        delta = torch.zeros(2, 4, 12, 20)
        ss2d_given_delta(
            x, delta, projected[..., 2:], routes, *parameters[1:], merge=merge, backend=backend
        )


@pytest.mark.parametrize("table", bad_tables())
def test_bad_tables_are_refused_in_direct_calls(table: str) -> None:
    values = {**arguments(), "order": bad_tables()[table]}
    y, states = forward(arguments())
    with pytest.raises(ShapeError):
        forward(values)
    with pytest.raises(ShapeError):
        torch.ops.qmamba.scan_forward_backward(y, *values.values(), True, True, states)
    with pytest.raises(ShapeError):
        torch.ops.qmamba.chunked_map_scan(*list(values.values())[:-1], True, False)
    scan = PackedScan(*(values[name] for name in ("dt_weight", "dt_bias", "A", "D")))
    with pytest.raises(ShapeError):
        scan(values["x"], values["projected"], values["order"])


def test_a_table_is_read_once_until_it_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    values = arguments()
    table = values["order"].clone()
    values["order"] = table
    forward(values)
    reads: list[int] = []
    looked = Tensor.aminmax

    def spy(tensor: Tensor, *rest: Any, **options: Any) -> Any:
        reads.append(1)
        return looked(tensor, *rest, **options)

    monkeypatch.setattr(Tensor, "aminmax", spy)
    forward(values)
    assert not reads
    table[0, 0] = 99
    with pytest.raises(ShapeError, match="from 0 to 99"):
        forward(values)
    table[0, 0] = 0
    forward(values)
    assert len(reads) == 2
    with pytest.raises(ShapeError, match="pixels"):
        forward({**values, "x": values["x"][:, :7], "projected": values["projected"][:, :7]})


def test_tables_of_inference_mode_are_read_each_time() -> None:
    values = arguments()
    with torch.inference_mode():
        values["order"] = values["order"].clone()
        forward(values, save=False)
        values["order"][0, 0] = 99
        with pytest.raises(ShapeError, match="99"):
            forward(values, save=False)


@pytest.mark.parametrize(
    ("grad", "states"),
    [
        (torch.zeros(2, 12, 20), torch.zeros(0)),
        (torch.zeros(2, 12, 20), torch.zeros(2, 4, 1, 2, 20)),
        (torch.zeros(2, 12, 20), torch.zeros(2, 4, 1, 2, 32, dtype=torch.float64)),
        (torch.zeros(2, 12, 19), torch.zeros(2, 4, 1, 2, 32)),
        (torch.zeros(2, 12, 20, dtype=torch.bfloat16), torch.zeros(2, 4, 1, 2, 32)),
    ],
)
def test_the_way_back_checks_what_it_gets(grad: Tensor, states: Tensor) -> None:
    with pytest.raises(ShapeError, match=r"grad|states"):
        torch.ops.qmamba.scan_forward_backward(grad, *arguments().values(), True, True, states)


def test_the_operators_of_the_pure_pytorch_scan_check_their_arguments() -> None:
    values = list(arguments().values())[:-1]
    y, states = torch.ops.qmamba.chunked_map_scan(*values, True, True)
    for short in (states[:0], states[..., :3]):
        with pytest.raises(ShapeError, match="states"):
            torch.ops.qmamba.chunked_map_scan_backward(y, *values, True, short)
    u, A, B = torch.zeros(2, 1, 7, 3), torch.zeros(4, 2, 3), torch.zeros(4, 2, 1, 7)
    torch.ops.qmamba.chunked_scan(u, u, A, B, B, True)
    for broken in (
        (u, u[:, :, :5], A, B, B),
        (u, u, A[:0], B[:0], B[:0]),
        (u, u, A, B, B[..., :2]),
    ):
        with pytest.raises(ShapeError):
            torch.ops.qmamba.chunked_scan(*broken, True)
    with pytest.raises(ShapeError):
        torch.ops.qmamba.chunked_scan_backward(u, u, u, A, B, B, torch.zeros(0, 4, 2, 1, 3))


def test_a_scan_that_saved_nothing_has_gradients() -> None:
    values = {name: value for name, value in arguments().items() if name != "delta"}
    x = values["x"].clone().requires_grad_()
    y, states = forward({**values, "x": x, "delta": None}, save=False)
    assert states.numel() == 0
    found = torch.autograd.grad(y.square().sum(), x)[0]
    routes = values.pop("order")
    expected = ss2d(x, values["projected"], routes, *list(values.values())[2:])
    torch.testing.assert_close(found, torch.autograd.grad(expected.square().sum(), x)[0])


def rules(bits: int = 4) -> ScanRules:
    fixed = QParamsRule(bits, fixed=(0.1, 0.0))
    return ScanRules(fixed, fixed, fixed, fixed, fixed)


def constant(*shape: int) -> Constant:
    return Constant(torch.zeros(shape, dtype=torch.int8), 0.1, 0.0)


def quantized_scan() -> QuantizedScan:
    return QuantizedScan(
        rules(), constant(4, 3, 32), constant(4, 20), constant(4, 20, 8), constant(4, 20)
    )


def test_a_quantized_scan_checks_what_it_gets() -> None:
    x, projected = torch.zeros(2, 12, 20), torch.zeros(2, 12, 4, 19)
    routes = scan_routes(3, 4)
    quantized_scan()(x, projected, routes)
    for wrong in (x[:, :, :19], x.double(), x[..., :0], x.half(), x.mT.contiguous().mT):
        with pytest.raises(ShapeError):
            quantized_scan()(wrong, projected, routes)
    for wrong in (projected[:, :, :3], projected[..., :5].contiguous(), projected.double()):
        with pytest.raises(ShapeError):
            quantized_scan()(x, wrong, routes)
    for wrong in (torch.zeros(2, 12, 19), torch.zeros(2, 12, 20).half(), torch.zeros(1, 12, 20)):
        with pytest.raises(ShapeError, match="gate"):
            quantized_scan()(x, projected, routes, gate=wrong)
        with pytest.raises(ShapeError, match="out"):
            quantized_scan()(x, projected, routes, out=wrong)
    with pytest.raises(ShapeError, match="pixels"):
        quantized_scan()(x, projected, scan_routes(4, 4))


@pytest.mark.parametrize(
    "constants",
    [
        (constant(4, 3, 20), constant(4, 20), constant(4, 20, 8), constant(4, 20)),
        (constant(4, 3, 32), constant(4, 19), constant(4, 20, 8), constant(4, 20)),
        (constant(4, 3, 32), constant(4, 20), constant(4, 20, 0), constant(4, 20)),
        (constant(3, 3, 32), constant(4, 20), constant(4, 20, 8), constant(4, 20)),
        (
            Constant(torch.zeros(4, 3, 32), 1, 0),
            constant(4, 20),
            constant(4, 20, 8),
            constant(4, 20),
        ),
    ],
)
def test_constants_of_a_quantized_scan_have_to_fit(constants: tuple[Constant, ...]) -> None:
    with pytest.raises(ShapeError):
        QuantizedScan(rules(), *constants)


def test_bindings_of_quantized_networks_check_what_they_get() -> None:
    rule = QParamsRule(4, fixed=(0.1, 0.0))
    weight = Constant(torch.zeros(5, 1, 3, 3, dtype=torch.int8), 0.1, 0.0)
    layer = DepthwiseConvolution(weight, None, rule)
    layer(torch.zeros(1, 4, 4, 5))
    for x in (
        torch.zeros(1, 4, 4, 4),
        torch.zeros(1, 4, 4, 5).double(),
        torch.zeros(1, 5, 4, 4).mT,
    ):
        with pytest.raises(ShapeError):
            layer(x)
    with pytest.raises(ShapeError, match="out"):
        layer(torch.zeros(1, 4, 4, 5), torch.zeros(1, 3, 4, 5))
    with pytest.raises(ShapeError):
        DepthwiseConvolution(Constant(torch.zeros(5, 1, 4, 4).char(), 1, 0), None, rule)
    for x in (torch.zeros(2, 3), torch.zeros(1, 2, 3).double(), torch.zeros(1, 3, 2).mT):
        with pytest.raises(ShapeError):
            fake_quantize_(x, rule)
    with pytest.raises(ShapeError, match="out"):
        quantize(torch.zeros(1, 2, 3), rule, torch.zeros(1, 2, 2, dtype=torch.uint8))
    with pytest.raises(ShapeError, match="qparams"):
        fake_quantize_(torch.zeros(2, 2, 3), rule, torch.zeros(1, 4))
    for options in ({"weights": torch.zeros(7)}, {"weights": torch.zeros(8).half()}, {}):
        with pytest.raises(ShapeError):
            QParamsRule(4, **options)
    with pytest.raises(ShapeError):
        QParamsRule(4, fixed=(1.0, 0.0), first=-100, last=100)


def test_bindings_of_integers_and_maps_check_what_they_get() -> None:
    codes = torch.zeros(6, 9, dtype=torch.int8)
    packed = PackedCodes(codes, torch.ones(6), None, None)
    call = IntegerCall(packed)
    x = torch.zeros(4, 9)
    call(x)
    scale = torch.ones(())
    for wrong, options in [
        (torch.zeros(4, 8), {}),
        (x.double(), {}),
        (x.to(torch.uint8), {}),
        (x, {"scale": scale}),
        (x, {"scale": scale, "offset": torch.ones(4)}),
        (x, {"scale": torch.ones(3), "offset": torch.ones(3)}),
        (x, {"scale": scale.double(), "offset": scale.double()}),
        (x, {"scale": scale, "offset": scale, "highest": 300}),
        (x, {"residual": torch.zeros(4, 5)}),
        (x, {"residual": torch.zeros(4, 6), "residual_scale": torch.zeros(6).half()}),
        (x, {"residual_scale": torch.zeros(6)}),
        (x, {"out": torch.zeros(4, 7)}),
        (x, {"dtype": torch.float16}),
    ]:
        with pytest.raises(ShapeError):
            call(wrong, **options)
    for options in ({"side": 2}, {"side": 3, "stride": 0}, {"side": 5}, {"second": packed}):
        with pytest.raises(ShapeError):
            IntegerCall(packed, **options)
    with pytest.raises(ShapeError, match="norm_weight"):
        IntegerCall(packed, norm=nn.LayerNorm(8))
    with pytest.raises(ShapeError):
        PackedCodes(codes, torch.ones(5), None, None)
    with pytest.raises(ShapeError):
        layer_norm(x, torch.ones(8), torch.ones(9), 1e-5)
    with pytest.raises(ShapeError):
        layer_norm(x.half(), torch.ones(9), torch.ones(9), 1e-5)
    maps = torch.zeros(1, 2, 2, 3)
    attention = ChannelAttentionWeights(
        torch.ones(2, 3), torch.ones(2), torch.ones(3, 2), torch.ones(3)
    )
    with pytest.raises(ShapeError):
        attended_sum(maps, torch.ones(3), maps[:, :1], attention)


def test_quantizers_in_half_precision_are_read_as_what_they_are() -> None:
    settings = DynamicSettings(-8, 7, 1, 1e-3, 1e-12)
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.0, 0.33, 0.0, 0.0]), torch.tensor([-1.0, -0.17, 0.0, 0.0])
    half = [weight.half() for weight in weights]
    expected = dynamic_round(x, *(weight.float() for weight in half), settings)[0]
    assert torch.equal(dynamic_round(x, *half, settings)[0], expected)
    with pytest.raises(ShapeError):
        dynamic_round(x, weights[0][:3], weights[1], settings)
    thresholds = ThresholdSettings(-2, 1, -2, 0.1)
    points = torch.arange(-2.0, 2.0)
    number = torch.tensor(0.5)
    exact = threshold_round(x[0], number, number, points, thresholds)
    assert torch.equal(threshold_round(x[0], number, number, points.half(), thresholds), exact)
    with pytest.raises(ShapeError):
        threshold_round(x[0], number, number, points[:1], thresholds)
