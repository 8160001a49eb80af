"""What each quantizer loses on known distributions, and what each correction of Q-MambaIR gains.

The error is the mean squared one relative to the variance of the data (to their mean square for a
constant). `official` stands for the official code's quantizers right after their first pass.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import write
from qmamba.quantization import BITS, DLS, QUANTIZERS, RFA, Operand, Quantizer, create_quantizer
from qmamba.quantization.quantizers import OFFICIAL, OfficialDLS, OfficialRFA

COUNT = 65536
NOT_A_NUMBER = "NaN"
DATA: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda z: z,
    "positive": lambda z: z.abs() + 0.01,
    "after SiLU": F.silu,
    "heavy tails": lambda z: z * z.abs(),
    "constant": torch.ones_like,
}
Row = dict[str, Any]


def draw(kind: str, seed: int = 0) -> Tensor:
    normal = torch.randn(1, COUNT, generator=torch.Generator().manual_seed(seed))
    return DATA[kind](normal)


def draw_for(role: str, kind: str) -> Tensor:
    """Weights are small: where DoReFa bends its weights, they are nearly proportional."""
    return draw(kind) * (0.05 if role == "weight" else 1.0)


def error(quantizer: Quantizer, x: Tensor) -> float | None:
    """Relative squared error after the first training pass, ``None`` where that is NaN."""
    with torch.no_grad():
        y = quantizer(x)
    variance, power = x.var(), x.square().mean()
    scale = variance if variance > 1e-6 * power else power
    found = float((y - x).square().mean() / scale)
    return None if math.isnan(found) else found


def starts() -> list[Row]:
    """Every quantizer on every distribution."""
    rows = []
    for name in QUANTIZERS:
        for role in ("activation", "weight"):
            operand = Operand.weight() if role == "weight" else Operand()
            variants = {name: lambda b, o=operand, n=name: create_quantizer(n, b, o)}
            if name in OFFICIAL:
                variants[f"{name}, official"] = lambda b, o=operand, n=name: create_quantizer(
                    n, b, o, compat=True
                )
            if name in {"weight": ("dls", "static"), "activation": ("rfa",)}[role]:
                continue
            for label, create in variants.items():
                for bits in BITS:
                    errors = {kind: error(create(bits), draw_for(role, kind)) for kind in DATA}
                    rows.append({"quantizer": label, "role": role, "bits": bits, **errors})
    return rows


def thresholds(steps: int = 2000, rate: float = 2e-2) -> list[Row]:
    """How RFA's points end when they alone are fitted to weights by Adam, at a high rate."""
    rows = []
    for bits in (2, 4):
        w = draw("heavy tails")[0, :4096]
        for kind in (OfficialRFA, RFA):
            quantizer = kind(bits, Operand.weight())
            quantizer(w)
            learned = [p for n, p in quantizer.named_parameters() if n not in ("alpha", "beta")]
            optimizer = torch.optim.Adam(learned, rate)
            noise = torch.Generator().manual_seed(1)
            for _ in range(steps):
                optimizer.zero_grad()
                # A different part every time, as the gradients of training differ.
                part = w[torch.randint(len(w), (256,), generator=noise)]
                (quantizer(part) - part).square().sum().backward()
                optimizer.step()
            gaps = quantizer.points().detach().diff()
            rows.append(
                {
                    "quantizer": kind.__name__,
                    "bits": bits,
                    "steps": steps,
                    "learning rate": rate,
                    "smallest gap": float(gaps.min()),
                    "crossed points": int((gaps <= 0).sum()),
                }
            )
    return rows


def batch_dependence() -> list[Row]:
    """How far a tensor moves when another one joins its batch, in its own deviations."""
    x, mate = draw("normal"), 3 * draw("heavy tails", seed=1)
    rows = []
    for statistics in ("batch", "sample", "frozen"):
        for bits in BITS:
            quantizer = DLS(bits, statistics=statistics)
            quantizer(torch.cat([x, mate]))
            quantizer.eval()
            with torch.no_grad():
                moved = quantizer(torch.cat([x, mate]))[:1] - quantizer(x)
            rows.append(
                {
                    "statistics": statistics,
                    "bits": bits,
                    "root mean square": math.sqrt(float(moved.square().mean() / x.var())),
                    "largest": float(moved.abs().max() / x.std()),
                }
            )
    return rows


def rank_dependence() -> list[Row]:
    """How far the starting steps of eight processes lie apart that each see four images.

    Every image has its own contrast, log-normal with a deviation of a half.
    """
    rows = []
    for label, compat in (("static, official", True), ("static", False)):
        for bits in BITS:
            found = []
            for rank in range(8):
                contrast = torch.randn(4, 1, generator=torch.Generator().manual_seed(rank))
                x = draw("after SiLU", seed=rank).view(4, -1) * (contrast / 2).exp()
                quantizer = create_quantizer("static", bits, Operand(), compat=compat)
                quantizer(x)
                found.append(float(quantizer.choose_qparams(x).scale))
            spread = max(found) / min(found)
            rows.append({"quantizer": label, "bits": bits, "largest over smallest": spread})
    return rows


def start_parts() -> list[Row]:
    """The start of DLS on normal data in parts: official, other step, and half-step offset too."""
    x = draw("normal")
    rows = []
    for bits in BITS:
        official, ours = OfficialDLS(bits), DLS(bits)
        errors: Row = {"bits": bits, "official": error(official, x)}
        centered = min(
            float((round_centered(x, step, bits) - x).square().mean() / x.var())
            for step in torch.linspace(0.02, 2, 400).tolist()
        )
        rows.append({**errors, "best centered step": centered, "search": error(ours, x)})
    return rows


def round_centered(x: Tensor, step: float, bits: int) -> Tensor:
    return torch.round(x / step).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step


def markdown(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(rows[0])
    lines = [f"## {title}", "", "| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for row in rows:
        cells = (
            f"{v:.3g}" if isinstance(v, float) else NOT_A_NUMBER if v is None else str(v)
            for v in row.values()
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, help="JSON file to write besides")
    parser.add_argument("--quick", action="store_true", help="the last two tables: does it run?")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], list[Row]]] = {
        "Relative squared error after the first pass": starts,
        "Start of DLS on normal data": start_parts,
        "Thresholds of RFA after fitting": thresholds,
        "Dependence on the batch": batch_dependence,
        "Dependence on the process": rank_dependence,
    }
    tables = {}
    for title in list(parts)[-2 if arguments.quick else 0 :]:
        tables[title] = parts[title]()
        print(markdown(title, tables[title]), flush=True)
    if arguments.out is not None:
        write(arguments.out, tables)


if __name__ == "__main__":
    main()
