"""Random calls of the operators and bindings of the kernel, right ones and wrong ones.

A right call must agree with the definition; one whose arguments do not fit together must end with a
`ShapeError`. Run with a library that was built with the sanitizers (see `docs/kernel.md`), a read
or write beside a tensor ends the process; the last seed on the error output is that of the call.

What counts as a fault: another exception, no exception where arguments do not fit, a result that is
not that of the definition.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qmamba.errors import QMambaError
from qmamba.ops import scan_routes, ss2d
from qmamba.ops.layers import depthwise_convolution, gated_norm, linear
from qmamba.ops.layers import layer_norm as training_norm
from qmamba.ops.native.depthwise import DepthwiseConvolution
from qmamba.ops.native.integer import IntegerCall, PackedCodes
from qmamba.ops.native.maps import ChannelAttentionWeights, attended_sum, layer_norm
from qmamba.ops.native.operands import CodeGrid, Constant, QParamsRule, fake_quantize_
from qmamba.ops.native.prepared_scan import PackedScan
from qmamba.ops.native.quantized_scan import QuantizedScan, ScanRules
from qmamba.ops.native.rounding import DynamicSettings, dynamic_round, dynamic_round_backward

CALLS = 500
"""Calls of a full run."""
TOLERANCE = 2e-4

Call = tuple[Callable[..., Any], dict[str, Any], Callable[[], Tensor] | None]
"""A function, its arguments, and what its result must be; unknown where there is no definition."""


def _numbers(rng: random.Random, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def _codes(rng: random.Random, *shape: int, bits: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    ends = -(2 ** (bits - 1)), 2 ** (bits - 1)
    return torch.randint(*ends, shape, generator=generator, dtype=torch.int8, device="cpu")


class _Map:
    """Sizes and tensors of a 2-D scan."""

    def __init__(self, rng: random.Random) -> None:
        self.batch, self.channels = rng.randint(1, 3), rng.randint(1, 40)
        self.states, self.rank = rng.choice([1, 2, 5, 8, 16, 17]), rng.randint(1, 4)
        height, width, window = rng.randint(1, 12), rng.randint(1, 12), rng.choice([1, 1, 2, 4])
        self.pixels, self.routes = height * width, scan_routes(height, width, window).clone()
        self.x = _numbers(rng, self.batch, self.pixels, self.channels)
        columns = self.rank + 2 * self.states
        self.projected = _numbers(rng, self.batch, self.pixels, 4, columns)
        self.parameters = {
            "dt_weight": 0.3 * _numbers(rng, 4, self.channels, self.rank),
            "dt_bias": _numbers(rng, 4, self.channels) - 1,
            "A": -0.1 - _numbers(rng, 4, self.channels, self.states).abs(),
            "D": _numbers(rng, 4, self.channels),
        }

    def tensors(self) -> dict[str, Any]:
        return {"x": self.x, "projected": self.projected, "order": self.routes, **self.parameters}

    def definition(self, merge: bool) -> Tensor:
        arguments = (self.x, self.projected, self.routes, *self.parameters.values())
        return ss2d(*arguments, merge=merge, backend="naive")


def forward(rng: random.Random) -> Call:
    case, merge = _Map(rng), rng.random() < 0.5
    flags = {"merge": merge, "softplus": True, "save_states": rng.random() < 0.5}
    arguments = {**case.tensors(), "delta": None, **flags}
    return _first(torch.ops.qmamba.scan_forward), arguments, lambda: case.definition(merge)


def backward(rng: random.Random) -> Call:
    case, merge = _Map(rng), rng.random() < 0.5
    tensors = {**case.tensors(), "delta": None, "merge": merge, "softplus": True}
    y, states = torch.ops.qmamba.scan_forward(*tensors.values(), True)

    def definition() -> Tensor:
        case.x, case.projected = case.x.requires_grad_(), case.projected.requires_grad_()
        parameters = [each.requires_grad_() for each in case.parameters.values()]
        inputs = (case.x, case.projected, *parameters)
        return _flat(torch.autograd.grad(case.definition(merge), inputs, y))

    def operator(**arguments: Any) -> Tensor:
        # No gradients of the routes and of a time step that was not given.
        return _flat(torch.ops.qmamba.scan_forward_backward(*arguments.values()))

    return operator, {"grad": y, **tensors, "states": states}, definition


def pure(rng: random.Random) -> Call:
    case, merge = _Map(rng), rng.random() < 0.5
    arguments = {**case.tensors(), "merge": merge, "save_states": rng.random() < 0.5}
    return _first(torch.ops.qmamba.chunked_map_scan), arguments, lambda: case.definition(merge)


def prepared(rng: random.Random) -> Call:
    case, merge = _Map(rng), rng.random() < 0.5

    def call(x: Tensor, projected: Tensor, routes: Tensor, **parameters: Any) -> Tensor:
        return PackedScan(**parameters, merge=merge)(x, projected, routes)

    tensors = {"x": case.x, "projected": case.projected, "routes": case.routes}
    return call, {**tensors, **case.parameters}, lambda: case.definition(merge)


def quantized(rng: random.Random) -> Call:
    case, bits = _Map(rng), rng.choice([2, 3, 4, 8])
    padded = -(-case.channels // 16) * 16
    spread = _numbers(rng, 8).abs() / 2**bits
    tables = rng.choice([None, bits <= 4])
    rules = [
        QParamsRule(bits, fixed=(4 / 2**bits, 0.0))
        if which == 0 or rng.random() < 0.5
        else QParamsRule(bits, weights=spread)
        for which in range(5)
    ]

    def call(x: Tensor, projected: Tensor, routes: Tensor, **codes: Tensor) -> Tensor:
        constants = (Constant(code, 0.1, 0.05) for code in codes.values())
        scan = QuantizedScan(ScanRules(*rules), *constants, tables=tables)
        # Operands are quantized in place.
        return scan(x.clone(), projected.clone(), routes).y

    arguments = {
        **{"x": case.x, "projected": case.projected, "routes": case.routes},
        "dt_weight": _codes(rng, 4, case.rank, padded, bits=bits),
        "dt_bias": _codes(rng, 4, case.channels, bits=bits),
        "A": -_codes(rng, 4, case.channels, case.states, bits=bits).abs(),
        "D": _codes(rng, 4, case.channels, bits=bits),
    }
    return call, arguments, None


def integers(rng: random.Random) -> Call:
    rows, inputs, outputs = rng.randint(1, 60), rng.randint(1, 70), rng.randint(1, 70)
    scale, offset = torch.tensor(0.03), torch.tensor(0.7)
    codes = _codes(rng, outputs, inputs)
    x = (255 * _numbers(rng, rows, inputs).sigmoid()).to(torch.uint8)

    def call(x: Tensor, codes: Tensor, weight_scale: Tensor, **options: Any) -> Tensor:
        return IntegerCall(PackedCodes(codes, weight_scale, None, None))(x, **options)

    weight_scale = _numbers(rng, outputs).abs()
    values = codes.double() * weight_scale.double()[:, None]
    arguments = {"x": x, "codes": codes, "weight_scale": weight_scale}
    residual = _numbers(rng, rows, outputs)
    return (
        call,
        {**arguments, "scale": scale, "offset": offset, "residual": residual},
        lambda: ((x.double() * 0.03 - 0.7) @ values.T + residual).float(),
    )


def coded_product(rng: random.Random) -> Call:
    rows, inputs, outputs = rng.randint(1, 60), rng.randint(1, 70), rng.randint(1, 70)
    grid = CodeGrid(0.5, 0.1, -8, 7)
    weight = PackedCodes(_codes(rng, outputs, inputs), torch.tensor(0.1), None, None)

    def call(x: Tensor, codes: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        codes = codes.clone(memory_format=torch.preserve_format)
        rest = IntegerCall(weight)(x, scale=scale, offset=offset, codes=codes, code_grid=grid)
        return torch.cat([codes.float(), rest], dim=-1)

    codes = torch.zeros(rows, rng.randint(1, outputs), dtype=torch.uint8)
    arguments = {"x": _numbers(rng, rows, inputs), "codes": codes}
    return call, {**arguments, "scale": torch.tensor(0.03), "offset": torch.tensor(0.7)}, None


def coded_depthwise(rng: random.Random) -> Call:
    channels, side = rng.randint(1, 40), rng.choice([1, 3, 5])
    shape = (rng.randint(1, 2), rng.randint(1, 9), rng.randint(1, 9), channels)
    taps, grid = Constant(_codes(rng, channels, 1, side, side), 0.1, 0.0), CodeGrid(0.5, 0.1, 0, 15)
    convolution = DepthwiseConvolution(taps, None, QParamsRule(4, fixed=(0.3, 0.1)))
    only_codes = rng.random() < 0.5

    def call(x: Tensor, codes: Tensor) -> Tensor:
        codes = codes.clone(memory_format=torch.preserve_format)
        y = convolution(x, codes=codes, code_grid=grid, only_codes=only_codes)
        return torch.cat([codes.float(), y.float()])

    x = (15 * _numbers(rng, *shape).sigmoid()).to(torch.uint8)
    return call, {"x": x, "codes": torch.zeros(shape, dtype=torch.uint8)}, None


def attended(rng: random.Random) -> Call:
    channels, hidden = rng.randint(1, 70), rng.randint(1, 5)
    shape = (rng.randint(1, 2), rng.randint(1, 30), rng.randint(1, 5), channels)
    x, z = _numbers(rng, *shape), _numbers(rng, *shape)
    attention = {
        "squeeze": _numbers(rng, hidden, channels),
        "squeeze_bias": _numbers(rng, hidden),
        "excite": _numbers(rng, channels, hidden),
        "excite_bias": _numbers(rng, channels),
    }

    def call(x: Tensor, x_weight: Tensor, z: Tensor, **attention: Tensor) -> Tensor:
        return attended_sum(x, x_weight, z, ChannelAttentionWeights(**attention))

    return call, {"x": x, "x_weight": _numbers(rng, channels), "z": z, **attention}, None


def depthwise(rng: random.Random) -> Call:
    channels, side, dilation = rng.randint(1, 40), rng.choice([1, 3, 5]), rng.randint(1, 2)
    x = _numbers(rng, rng.randint(1, 2), rng.randint(1, 9), rng.randint(1, 9), channels)

    def call(x: Tensor, codes: Tensor, bias: Tensor) -> Tensor:
        rule = QParamsRule(8, fixed=(0.05, 0.0))
        return DepthwiseConvolution(Constant(codes, 0.1, 0.0), bias, rule, dilation=dilation)(x)

    arguments = {"x": x, "codes": _codes(rng, channels, 1, side, side)}
    return call, {**arguments, "bias": _numbers(rng, channels)}, None


def operand(rng: random.Random) -> Call:
    shape = tuple(rng.randint(1, 20) for _ in range(3))
    rule = QParamsRule(rng.choice([2, 4, 8]), fixed=(0.1, 0.0))

    def call(x: Tensor) -> Tensor:
        values = x.clone(memory_format=torch.preserve_format)
        fake_quantize_(values, rule)
        return values

    x = _numbers(rng, *shape)
    ends = rule.first, rule.last
    return call, {"x": x}, lambda: 0.1 * (x / torch.tensor(0.1)).round().clamp(*ends)


def norm(rng: random.Random) -> Call:
    channels = rng.randint(1, 70)
    x = _numbers(rng, rng.randint(1, 50), channels)
    weight, bias = _numbers(rng, 2, channels).clone()

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return layer_norm(x, weight, bias, 1e-2)

    arguments = {"x": x, "weight": weight.clone(), "bias": bias.clone()}
    function = torch.nn.functional.layer_norm
    return call, arguments, lambda: function(x, (channels,), weight, bias, 1e-2)


def rounding(rng: random.Random) -> Call:
    rows, count = rng.randint(1, 4), rng.choice([1, 7, 100, 9000])
    settings = DynamicSettings(-8, 7, rng.choice([1, 4]), 1e-3, 1e-12)

    def call(x: Tensor, step_weights: Tensor, offset_weights: Tensor) -> Tensor:
        y, state = dynamic_round(x, step_weights, offset_weights, settings)
        weights = (step_weights, offset_weights)
        dynamic_round_backward(y, x, *weights, state, settings, 1.0)
        return y

    weights = {"step_weights": _numbers(rng, 4), "offset_weights": _numbers(rng, 4)}
    return call, {"x": _numbers(rng, rows, count), **weights}, None


def layers(rng: random.Random) -> Call:
    """Layers in training, forward and backward, beside those of PyTorch."""
    rows = [rng.randint(1, 3), rng.randint(1, 9), rng.randint(1, 40)]
    channels, wide = rng.randint(1, 70), rng.random() < 0.3
    # Rows that lie in a wider map, as one half of a projection does.
    x, gate = (
        _numbers(rng, *rows, channels + 3 * wide)[..., :channels],
        _numbers(rng, *rows, channels),
    )
    if rng.random() < 0.3:
        x, gate = x.bfloat16(), gate.bfloat16()
    bias = _numbers(rng, channels)
    kind = rng.choice(["linear", "norm", "gated", "window"])
    if kind == "linear":
        outputs = rng.randint(1, 70)
        weight = _numbers(rng, outputs, channels)
        tensors = {"x": x.float(), "weight": weight, "bias": _numbers(rng, outputs)}
        return _beside(linear, torch.nn.functional.linear), tensors, None
    if kind == "window":
        dilation, activation = rng.randint(1, 3), rng.choice(["none", "silu", "gelu"])
        weight = _numbers(rng, channels, 1, 3, 3)
        options = {"dilation": dilation, "activation": activation}

        def convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            settings = {"padding": dilation, "dilation": dilation, "groups": len(weight)}
            y = torch.conv2d(x.permute(0, 3, 1, 2), weight, bias, **settings)
            y = y.permute(0, 2, 3, 1)
            return y if activation == "none" else getattr(torch.nn.functional, activation)(y)

        function = partial(depthwise_convolution, **options)  # type: ignore[arg-type]
        return _beside(function, convolved), {"x": x, "weight": weight, "bias": bias}, None
    weight = _numbers(rng, channels)

    def normed(x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None = None) -> Tensor:
        y = torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-2)
        return y if gate is None else y * torch.nn.functional.silu(gate)

    tensors = {"x": x, "weight": weight, "bias": bias}
    if kind == "norm":
        return _beside(partial(training_norm, epsilon=1e-2), normed), tensors, None
    return _beside(partial(gated_norm, epsilon=1e-2), normed), {**tensors, "gate": gate}, None


def _beside(function: Callable[..., Tensor], plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Result and gradients of a layer, which must be those of PyTorch for the same arguments."""

    def run(layer: Callable[..., Tensor], arguments: dict[str, Tensor]) -> Tensor:
        leaves = {
            name: tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor
            for name, tensor in arguments.items()
        }
        y = layer(**leaves)
        wanted = [tensor for tensor in leaves.values() if tensor.requires_grad]
        return _flat((y.detach(), *torch.autograd.grad(y.float().square().sum(), wanted)))

    def call(**arguments: Tensor) -> Tensor:
        found = run(function, arguments)
        try:
            expected = run(plain, {name: t.float() for name, t in arguments.items()})
        except RuntimeError as error:
            raise AssertionError("takes what PyTorch refuses") from error
        largest = float((found - expected).abs().max() / expected.abs().max().clamp_min(1))
        rounded = any(t.dtype in (torch.bfloat16, torch.float16) for t in arguments.values())
        if found.device.type == "cpu" and not largest < (0.05 if rounded else TOLERANCE):
            raise AssertionError(f"differs by {largest:g} from the layer of PyTorch")
        return found

    return call


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.float().flatten() for tensor in tensors])


KINDS = (
    *(forward, backward, layers, pure, prepared, quantized, integers, depthwise, operand, norm),
    *(coded_product, coded_depthwise, attended),
    rounding,
)


def _first(operator: Callable[..., Any]) -> Callable[..., Tensor]:
    def call(**arguments: Any) -> Tensor:
        result: Tensor = operator(*arguments.values())[0]
        return result

    return call


def _longer(rng: random.Random, tensor: Tensor) -> Tensor:
    axis = rng.randrange(tensor.dim())
    return torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)


def _shorter(rng: random.Random, tensor: Tensor) -> Tensor:
    axis = rng.randrange(tensor.dim())
    return tensor.narrow(axis, 0, rng.randrange(tensor.shape[axis])).contiguous()


def _out_of_range(rng: random.Random, tensor: Tensor) -> Tensor:
    edited = tensor.clone()
    value = rng.choice([tensor.shape[-1] + 1, 10**6, -2, -(10**9), 2**31 - 1])
    edited.view(-1)[rng.randrange(edited.numel())] = value
    return edited


def broken(rng: random.Random, arguments: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The same call with one tensor that may not fit, and what was done to it."""
    tensors = [k for k, v in arguments.items() if isinstance(v, Tensor) and v.dim() and v.numel()]
    name = rng.choice(tensors)
    tensor: Tensor = arguments[name]
    changes: dict[str, Callable[[], Tensor]] = {
        "longer": lambda: _longer(rng, tensor),
        "shorter": lambda: _shorter(rng, tensor),
        "empty": lambda: tensor.new_empty(0),
        "flat": lambda: tensor.flatten(),
        "float64": lambda: tensor.double(),
        "float16": lambda: tensor.half(),
        "int8": lambda: tensor.to(torch.int8),
        "meta": lambda: tensor.to("meta"),
    }
    if tensor.dtype == torch.int32:
        changes = {key: changes[key] for key in ("shorter", "empty", "float64", "int8")}
        changes["out of range"] = lambda: _out_of_range(rng, tensor)
    change = rng.choice(list(changes))
    return {**arguments, name: changes[change]()}, f"{name} {change}"


def faults(seed: int) -> Iterator[str]:
    """What is wrong with the call of a seed."""
    rng = random.Random(seed)
    kind = rng.choice(KINDS)
    call, arguments, definition = kind(rng)
    what = "as it is"
    if rng.random() < 0.6:
        arguments, what = broken(rng, arguments)
        definition = None
    label = f"{kind.__name__}, {what}"
    try:
        result = call(**arguments)
    except QMambaError as error:
        if what == "as it is":
            yield f"{label}: refused: {error}"
        elif not str(error).rstrip().endswith("."):
            yield f"{label}: no sentence: {error}"
        return
    except (RuntimeError, NotImplementedError) as error:
        # PyTorch itself refuses tensors without memory, and what layers do not hand to the kernel.
        if not what.endswith("meta") and (kind is not layers or what == "as it is"):
            yield f"{label}: {type(error).__name__}: {str(error).splitlines()[0]}"
        return
    except Exception as error:
        yield f"{label}: {type(error).__name__}: {error}"
        return
    if what.endswith("out of range"):
        yield f"{label}: was not refused"
    if definition is not None:
        expected = definition()
        largest = float((result - expected).abs().max() / expected.abs().max().clamp_min(1))
        if not largest < TOLERANCE:
            yield f"{label}: differs by {largest:g} from the definition"


def run(seconds: float, seed: int, calls: int = CALLS) -> int:
    """Make calls until the time or their number is up; the number of faults, which are printed."""
    begin, count, found = time.monotonic(), 0, 0
    while count < calls and time.monotonic() - begin < seconds:
        sys.stderr.write(f"\rcall {seed + count} ")
        sys.stderr.flush()
        for fault in faults(seed + count):
            found += 1
            print(f"seed {seed + count}: {fault}")
        count += 1
    sys.stderr.write("\r")
    print(f"{count} calls from seed {seed} in {time.monotonic() - begin:.0f} s; {found} faults")
    return found
