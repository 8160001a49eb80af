"""The Triton scan on a GPU: is it right at real sizes, and how fast are it and whole models.

Three parts, each row written to the report as soon as it is done, the most wanted ones first; what
fails is recorded and the rest goes on. With ``--seconds`` no row is started that would likely end
later, and the report names what was left out. The kernels run as the shipped rule says;
``QMAMBA_AUTOTUNE=1`` tries their configurations instead.

``parity`` compares outputs and gradients with the definition in float64. ``scan`` times the scan
alone against the chunked PyTorch code and against the pipeline that is not fused (copies along the
routes, time steps as a tensor, this package's scan kernel, merge). ``models`` times inference and
training steps of QMamba-T, as a module and prepared, and of Swin-T, eager and compiled, where timm
is installed; the first call of each, which compiles, is timed by itself. The implementations of a
row take turns in one process; figures are medians with quartiles.

    python -m benchmarks.gpu -o gpu.json --seconds 300   (in the repository's root)
    python -m benchmarks.gpu -o gpu.json --dry-run   (tiny sizes, in Triton's interpreter, no GPU)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.inference import Precision, prepare
from qmamba.models import create_model
from qmamba.ops import backends, scan_routes, ss2d
from qmamba.ops.scan.naive import ss2d_naive
from qmamba.ops.scan.routes import gather_routes, step_of_pixel

Report = dict[str, Any]
Row = tuple[str, Report, Callable[[], Report]]
"""Part, description and work of a row."""
PARTS = ("parity", "scan", "models")
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Size:
    """One scan: a stage of QMamba-T at 224 pixels, or a block of MambaIR on a 64 x 64 map."""

    name: str
    batch: int
    side: int
    channels: int
    states: int
    rank: int
    window: int = 1

    def tensors(self, dtype: torch.dtype, device: str, batch: int | None = None) -> list[Tensor]:
        """x, projected, dt_weight, dt_bias, A and D as in a trained model; parameters float32."""
        random = torch.Generator(device).manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random, device=device)

        batch, pixels = batch or self.batch, self.side**2
        decay = -torch.arange(1, self.states + 1, device=device).float()
        return [
            normal(batch, pixels, self.channels).to(dtype),
            normal(batch, pixels, 4, self.rank + 2 * self.states).to(dtype),
            normal(4, self.channels, self.rank) * self.rank**-0.5,
            normal(4, self.channels) - 4,
            decay.expand(4, self.channels, self.states).contiguous(),
            torch.ones(4, self.channels, device=device),
        ]

    def routes(self, device: str) -> Tensor:
        return scan_routes(self.side, self.side, self.window, device)


SIZES = [
    Size("QMamba-T stage 1", 128, 56, 192, 1, 6),
    Size("QMamba-T stage 2", 128, 28, 384, 1, 12),
    Size("QMamba-T stage 3", 128, 14, 768, 1, 24),
    Size("QMamba-T stage 4", 128, 7, 1536, 1, 48),
    Size("MambaIR light", 16, 64, 72, 10, 4),
    Size("MambaIR classic", 4, 64, 360, 16, 12),
    Size("MambaIR classic, one map", 1, 64, 360, 16, 12),
]
WINDOWED = [Size("LQMamba-T stage 1", 2, 56, 192, 1, 6, 8), Size("odd sides", 2, 13, 72, 2, 5, 4)]
WANTED = ("QMamba-T stage 3", "MambaIR light", "MambaIR classic, one map", "QMamba-T stage 1")
"""The scans that have goals."""
DRY_SIZES = [Size("tiny", 1, 4, 8, 1, 1), Size("tiny, more states", 1, 3, 6, 2, 1, 2)]


class CrossScan(torch.autograd.Function):
    """Copies of a map along the routes; on the way back, the sum of the copies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, routes: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(routes, inverse)
        return gather_routes(x, routes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        routes, inverse = ctx.saved_tensors
        return CrossMerge.apply(grad, routes, inverse), None, None


class CrossMerge(torch.autograd.Function):
    """Routes put back and summed; on the way back, copies along the routes."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, routes: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(routes, inverse)
        every = torch.arange(routes.shape[0], device=y.device)[:, None]
        return y[:, every, inverse].sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        routes, inverse = ctx.saved_tensors
        return CrossScan.apply(grad, routes, inverse), None, None


def unfused(
    routes: Tensor,
    inverse: Tensor,
    x: Tensor,
    projected: Tensor,
    weight: Tensor,
    bias: Tensor,
    A: Tensor,
    D: Tensor,
) -> Tensor:
    """The scan as a chain of steps with everything between them in memory; no padded windows."""
    rank, states = weight.shape[2], A.shape[2]
    copies = CrossScan.apply(x, routes, inverse)
    # The projection of the copies, as reference code does it, costs the same as these four.
    along = torch.stack(
        [
            CrossScan.apply(projected[:, :, k], routes[k : k + 1], inverse[k : k + 1])[:, 0]
            for k in range(routes.shape[0])
        ],
        dim=1,
    )
    low, rest = along.split([rank, 2 * states], dim=-1)
    delta = low @ weight.mT.to(low.dtype)
    straight = torch.arange(routes.shape[1], dtype=torch.int32, device=x.device)
    y, _ = torch.ops.qmamba.triton_scan(
        copies,
        rest.transpose(1, 2).contiguous(),
        straight.expand_as(routes).contiguous(),
        weight.new_zeros(*weight.shape[:2], 0),
        bias,
        A,
        D,
        delta,
        False,
        True,
        x.requires_grad,
    )
    return CrossMerge.apply(y, routes, inverse)


def attempt(report: Report, call: Callable[[], Report]) -> None:
    """Add what the call returns to the report, or how it failed."""
    try:
        report.update(call())
    except Exception as error:
        report["error"] = f"{type(error).__name__}: {error}"[:2000]
        report["traceback"] = traceback.format_exc(limit=-4)[-4000:]
        torch.cuda.empty_cache()


def interleave(calls: dict[str, Callable[[], object]], rounds: int, device: str) -> Report:
    """Median and quartiles of the time of each call in milliseconds, and its peak memory."""
    report: Report = {name: {} for name in calls}

    def warm_up(call: Callable[[], object]) -> Report:
        started = time.perf_counter()
        call()
        if device != "cuda":
            return {"first_seconds": time.perf_counter() - started}
        torch.cuda.synchronize()
        first = time.perf_counter() - started
        for _ in range(2):
            call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20
        return {"first_seconds": first, "peak_megabytes": peak}

    for name, call in calls.items():
        attempt(report[name], partial(warm_up, call))
    times: dict[str, list[float]] = {name: [] for name in calls if "error" not in report[name]}
    for _ in range(rounds):
        for name in times:
            times[name].append(milliseconds(calls[name], device))
    for name, taken in times.items():
        low, median, high = statistics.quantiles(taken, n=4, method="inclusive")
        report[name] |= {"median_ms": median, "quartiles_ms": [low, high]}
    return report


def milliseconds(call: Callable[[], object], device: str) -> float:
    if device != "cuda":
        started = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - started)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def with_gradients(call: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of a fixed weighted sum of it."""
    y = call(*(leaves := [t.detach().requires_grad_() for t in tensors]))
    weights = torch.sin(torch.arange(y.numel(), device=y.device) * 0.7).view(y.shape)
    return [y.detach(), *torch.autograd.grad(y, leaves, weights.to(y.dtype))]


def difference(actual: Tensor, expected: Tensor) -> float:
    """Largest deviation over the largest magnitude."""
    return ((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-9)).item()


def parity(size: Size, dtype: torch.dtype, merge: bool, device: str) -> Report:
    """How far output and gradients are from the definition, and whether they repeat."""
    tensors, routes = size.tensors(dtype, device, min(size.batch, 2)), size.routes(device)

    def triton(*t: Tensor) -> Tensor:
        return ss2d(t[0], t[1], routes, *t[2:], merge=merge, backend="triton")

    def definition(*t: Tensor) -> Tensor:
        x, projected, weight, bias, A, D = t
        return ss2d_naive(x, projected, routes, weight, bias, A, D, merge)

    actual = with_gradients(triton, tensors)
    again = with_gradients(triton, tensors)
    expected = with_gradients(definition, [t.double() for t in tensors])
    names = ("y", "x", "projected", "dt_weight", "dt_bias", "A", "D")
    errors = {name: difference(a, e) for name, a, e in zip(names, actual, expected, strict=True)}
    # Not a number compares false, and so counts as wrong.
    right = all(error < TOLERANCE[dtype] for error in errors.values())
    same = all(torch.equal(a, b) for a, b in zip(actual, again, strict=True))
    return {"errors": errors, "right": right, "same_bits_twice": same}


def scan(size: Size, dtype: torch.dtype, train: bool, rounds: int, device: str) -> Report:
    tensors, routes = size.tensors(dtype, device), size.routes(device)
    inverse = step_of_pixel(routes, size.side**2)

    def over(function: Callable[..., Tensor]) -> Callable[[], Any]:
        leaves = [t.detach().requires_grad_(train) for t in tensors]
        grad = torch.randn_like(tensors[0])

        def infer() -> Any:
            return function(*leaves)

        def step() -> Any:
            return torch.autograd.grad(function(*leaves), leaves, grad)

        return step if train else infer

    def backend(name: str) -> Callable[..., Tensor]:
        return lambda x, p, *rest: ss2d(x, p, routes, *rest, backend=name)

    calls = {name: over(backend(name)) for name in ("triton", "chunked")}
    if size.window == 1:
        calls["unfused"] = over(partial(unfused, routes, inverse))
    report = interleave(calls, rounds, device)
    if "unfused" in calls and not train:
        report["unfused"]["difference"] = difference(calls["unfused"](), calls["triton"]())
    return report


def models(batch: int, train: bool, dtype: torch.dtype, rounds: int, arguments: Any) -> Report:
    """Images per second of QMamba-T and Swin-T, each also in its fastest form for inference."""
    device, side = arguments.device, 32 if arguments.dry_run else 224
    images = torch.randn(batch, 3, side, side, device=device)
    tiny = {"dims": (16, 32), "depths": (1, 1), "windows": (1, 1)} if arguments.dry_run else {}
    calls: dict[str, Callable[[], object]] = {}
    skipped: Report = {}

    def add(name: str, model: nn.Module) -> None:
        model = model.to(device).train(train)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device == "cuda")

        def output() -> Tensor:
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                return model(images)

        def infer() -> None:
            with torch.inference_mode():
                output()

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            F.mse_loss(output().float(), torch.zeros(batch, 1, device=device)).backward()
            optimizer.step()

        calls[name] = step if train else infer

    model = create_model("qmamba-tiny", **tiny)
    add("QMamba-T", model)
    if not train:
        precision: Precision = "fp32" if dtype == torch.float32 else "bf16"
        prepared = prepare(model.eval(), precision)
        calls["QMamba-T, prepared"] = lambda: prepared(images)
    try:
        create = import_module("timm").create_model
    except Exception as error:
        skipped["Swin-T"] = f"timm cannot be used: {type(error).__name__}: {error}"
    else:
        swin = create("swin_tiny_patch4_window7_224", num_classes=1, img_size=side)
        add("Swin-T", swin)
        if device == "cuda":
            add("Swin-T, compiled", cast(nn.Module, torch.compile(swin)))
    report = interleave(calls, rounds, device)
    for row in report.values():
        if "median_ms" in row:
            row["images_per_second"] = 1e3 * batch / row["median_ms"]
    return {**report, "skipped": skipped}


def machine(device: str) -> Report:
    def version(module: str) -> str | None:
        try:
            return str(import_module(module).__version__)
        except Exception:
            return None

    report: Report = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        **{name: version(name) for name in ("triton", "timm", "numpy")},
        "backends": [asdict(row) for row in backends()],
    }
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader"]
        report["device"] = str(torch.cuda.get_device_properties(0))
        attempt(report, lambda: {"driver": subprocess.check_output(query, text=True).strip()})
    return report


def parts(arguments: argparse.Namespace) -> Iterator[tuple[str, Report, Callable[[], Report]]]:
    """The part, the description and the work of every row, the most wanted ones first."""
    dry, device, rounds = arguments.dry_run, arguments.device, arguments.rounds
    sizes = DRY_SIZES if dry else SIZES
    checked = sizes if dry else sizes + WINDOWED
    half, full = (torch.float32,) * 2 if dry else (torch.bfloat16, torch.float32)
    batch = 1 if dry else arguments.batch

    def parities(dtype: torch.dtype, merge: bool, names: Sequence[str] = ()) -> Iterator[Row]:
        for size in checked:
            if not names or size.name in names:
                row = {**asdict(size), "dtype": str(dtype), "merge": merge}
                yield "parity", row, partial(parity, size, dtype, merge, device)

    def scans(dtype: torch.dtype, train: bool) -> Iterator[Row]:
        for size in sorted(sizes, key=lambda size: size.name not in WANTED):
            row = {**asdict(size), "dtype": str(dtype), "train": train}
            yield "scan", row, partial(scan, size, dtype, train, rounds, device)

    def wholes(dtype: torch.dtype) -> Iterator[Row]:
        for train in (False, True):
            row = {"dtype": str(dtype), "train": train, "batch": batch}
            yield "models", row, partial(models, batch, train, dtype, rounds, arguments)

    if not dry:
        yield from parities(half, True, ("QMamba-T stage 3", "MambaIR light"))
    yield from wholes(half)
    yield from scans(half, False)
    yield from scans(half, True)
    if dry:
        yield from parities(half, True)
        return
    yield from parities(half, True)
    yield from parities(full, True)
    yield from wholes(full)
    yield from parities(half, False)
    yield from scans(full, False)
    yield from scans(full, True)


def without_repeats(rows: Iterator[Row]) -> Iterator[Row]:
    seen = set()
    for part, row, work in rows:
        key = part, json.dumps(row, sort_keys=True)
        if key not in seen:
            seen.add(key)
            yield part, row, work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=20, help="timed calls per implementation")
    parser.add_argument("--batch", type=int, default=128, help="images of the whole models")
    parser.add_argument("--seconds", type=float, help="time for everything; without it all rows")
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument(
        "--dry-run", "--quick", action="store_true", help="tiny sizes in the interpreter, no GPU"
    )
    arguments = parser.parse_args()
    arguments.device = "cpu" if arguments.dry_run else "cuda"
    if find_spec("triton") is None:
        raise SystemExit("Triton is not installed, which the interpreter needs, too.")
    if arguments.dry_run:
        arguments.rounds = 2
        if os.environ.get("TRITON_INTERPRET") != "1":
            # Triton looks for it when it is imported, which torch has done by now.
            environment = {**os.environ, "TRITON_INTERPRET": "1"}
            os.execve(sys.executable, sys.orig_argv, environment)
        import_module("tests.ops.interpreter")
        os.environ["QMAMBA_BACKEND"] = "triton"
    elif not torch.cuda.is_available():
        raise SystemExit("No GPU is visible to torch; --dry-run needs none.")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    report: Report = {"command": sys.argv, "dry_run": arguments.dry_run, "machine": {}}
    attempt(report["machine"], partial(machine, arguments.device))
    begin, longest = time.perf_counter(), {part: 0.0 for part in PARTS}
    for part, row, work in without_repeats(parts(arguments)):
        if arguments.only and part not in arguments.only:
            continue
        started = time.perf_counter()
        if arguments.seconds and started - begin + longest[part] > arguments.seconds:
            report.setdefault("left_out", []).append({"part": part, **row})
            arguments.out.write_text(json.dumps(report, indent=2))
            continue
        attempt(row, work)
        row["seconds"] = round(time.perf_counter() - started, 1)
        longest[part] = max(longest[part], row["seconds"])
        report.setdefault(part, []).append(row)
        arguments.out.write_text(json.dumps(report, indent=2))
        print(part, f"{row['seconds']:.1f} s", json.dumps(row, default=str)[:600], flush=True)


if __name__ == "__main__":
    main()
