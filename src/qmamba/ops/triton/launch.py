"""Launching the Triton kernels of the scan: sizes, scratch tensors and grids of one call."""

from __future__ import annotations

import contextlib
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from qmamba.errors import BackendError
from qmamba.ops.scan.arguments import check_backward, check_map_scan
from qmamba.ops.scan.routes import require_routes

# A program of a scan keeps one to four warps busy, and a multiprocessor has registers for about
# eight such warps.
_ENOUGH_PROGRAMS = 4
_WANTED_PROGRAMS = 8
_LEAST_SEGMENT = 256

MOST_SHORT_ADDRESS = 2**31
"""Entries of one map from which on kernels count them in 64 bits, at some cost."""


@cache
def _modules() -> tuple[ModuleType, ModuleType, ModuleType]:
    try:
        from qmamba.ops.triton import configurations, kernels, segments
    except ImportError as error:
        raise BackendError(f"The Triton scan cannot be loaded: {error}.") from error
    return configurations, kernels, segments


def _power_of_two(number: int, least: int) -> int:
    return max(least, 1 << (number - 1).bit_length())


@cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def save_steps(states: int) -> int:
    """Steps between two saved states, and length of a tile on the way back.

    Sixteen steps keep what that tile needs in registers, thirty-two spill. But from three states
    on, a state in every sixteen steps would outweigh the inputs.
    """
    return 16 if states <= 2 else 32


def segments_for(batch: int, routes: int, channels: int, steps: int, device: torch.device) -> int:
    """Into how many segments to cut each route so that the device is busy."""
    if device.type != "cuda":
        return 1
    programs = batch * routes * -(-channels // 64)
    if programs >= _ENOUGH_PROGRAMS * _multiprocessors(device):
        return 1
    wanted = -(-_WANTED_PROGRAMS * _multiprocessors(device) // programs)
    return max(1, min(wanted, steps // _LEAST_SEGMENT))


class Scan:
    """One call: its sizes, the arguments that all kernels share, and the launches."""

    def __init__(
        self,
        x: Tensor,
        projected: Tensor,
        order: Tensor,
        dt_weight: Tensor,
        dt_bias: Tensor,
        A: Tensor,
        D: Tensor,
        delta: Tensor | None,
        merge: bool,
        softplus: bool,
    ) -> None:
        arguments = (x, projected, order, dt_weight, dt_bias, A, D, delta)
        check_map_scan(*arguments, may_have_own_maps=not merge)
        require_routes(order, x.shape[-2])
        self.scans, self.kernels, self.segment_kernels = _modules()
        self.x, self.A = x.contiguous(), A.contiguous()
        self.batch, self.pixels, self.channels = x.shape[0], x.shape[-2], x.shape[-1]
        self.routes, self.steps = order.shape[-2:]
        self.rank, self.states = dt_weight.shape[2], A.shape[2]
        self.merge, self.shared = merge, x.dim() == 3
        whole = self.kernels.MOST_STEPS
        segments = segments_for(self.batch, self.routes, self.channels, self.steps, x.device)
        self.segment_steps = -(-self.steps // (segments * whole)) * whole
        self.segments = -(-self.steps // self.segment_steps)
        lanes = self.batch * self.routes * self.segments * self.channels
        self.fullness = (lanes // (64 * _multiprocessors(x.device))).bit_length()
        width = self.rank + 2 * self.states
        self.delta = self.x if delta is None else delta.contiguous()
        self.shape = {
            "pixels": self.pixels,
            "steps": self.steps,
            "channels": self.channels,
            "routes": self.routes,
            "own_routes": self.routes if order.dim() == 3 else 0,
            "segments": self.segments,
            "segment_steps": self.segment_steps,
            "RANK": self.rank,
            "BLOCK_R": _power_of_two(self.rank, 16),
            "STATES": self.states,
            "BLOCK_N": _power_of_two(self.states, 1),
            "SOFTPLUS": softplus,
            "PADDED": self.steps != self.pixels,
            "WIDE": self.pixels * max(self.channels, self.routes * width) >= MOST_SHORT_ADDRESS,
            "PRECISION": _precision(x),
        }
        self.inputs = {
            "rows_ptr": projected.contiguous(),
            "delta_ptr": self.delta,
            "routes_ptr": order.contiguous(),
            "weight_ptr": dt_weight.contiguous(),
            "bias_ptr": dt_bias.contiguous(),
            "decay_ptr": self.A,
        }
        self.skip = D.contiguous()

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.x.new_empty(shape, dtype=dtype)

    def maps(self) -> Tensor:
        """One map for each route."""
        return self.new(self.batch, self.routes, self.pixels, self.channels, dtype=self.x.dtype)

    def grid(self, images: int) -> Any:
        sequences = images * self.routes * self.segments
        return lambda values: (-(-self.channels // values["BLOCK_D"]) * sequences,)

    def forward(self, save_states: bool) -> tuple[Tensor, Tensor]:
        save = save_steps(self.states) if save_states else 0
        saved = empty_states(self.x, self.routes, self.steps, self.states, save)
        entry = self.chain(self.x, self.shared, backward=False)
        y = self.maps()
        self.scans.scan[self.grid(self.batch)](
            x_ptr=self.x,
            skip_ptr=self.skip,
            entry_ptr=self.x if entry is None else entry,
            y_ptr=y,
            saved_ptr=saved,
            fullness=self.fullness,
            SHARED=self.shared,
            SEGMENTED=entry is not None,
            SAVE=save,
            **self.inputs,
            **self.shape,
        )
        return (self.sum(y) if self.merge else y), saved

    def backward(self, grad_y: Tensor, saved: Tensor) -> list[Tensor]:
        """Gradients of x, projected, dt_weight, dt_bias, A, D and delta."""
        maps = (self.batch, self.pixels, self.channels)
        y = maps if self.merge else (self.batch, self.routes, *maps[1:])
        segments = -(-self.steps // save_steps(self.states))
        kept = (self.batch, self.routes, segments, self.states, self.channels)
        check_backward(grad_y, y, saved, kept)
        width = self.rank + 2 * self.states
        block = 64 if width <= 16 else 128
        block = min(block, _power_of_two(self.channels, 32))
        blocks = -(-self.channels // block)
        most = max(1, _WANTED_PROGRAMS * _multiprocessors(self.x.device))
        group = min(self.batch, max(1, self.batch * self.routes * self.segments * blocks // most))
        groups = -(-self.batch // group)

        flow = self.chain(grad_y, self.merge, backward=True)
        grad_x = self.maps()
        grad_rows = self.new(blocks, self.batch, self.pixels, self.routes, width)
        grad_delta = self.new(0) if self.rank else torch.empty_like(self.delta)
        parameters = [
            self.new(groups * self.segments, self.routes, self.channels, *rest)
            for rest in ((self.rank,), (), (self.states,), ())
        ]
        weight, bias, decay, skip = parameters
        self.scans.scan_backward[self.grid(groups)](
            grad_y_ptr=grad_y,
            x_ptr=self.x,
            skip_ptr=self.skip,
            saved_ptr=saved,
            flow_ptr=self.x if flow is None else flow,
            grad_x_ptr=grad_x,
            grad_rows_ptr=grad_rows,
            grad_delta_ptr=grad_delta,
            grad_weight_ptr=weight,
            grad_bias_ptr=bias,
            grad_decay_ptr=decay,
            grad_skip_ptr=skip,
            batch=self.batch,
            group=group,
            fullness=self.fullness,
            SHARED=self.shared,
            MERGED=self.merge,
            SEGMENTED=flow is not None,
            BLOCK_D=block,
            TILE=save_steps(self.states),
            **self.inputs,
            **self.shape,
        )
        return [
            self.sum(grad_x) if self.shared else grad_x,
            self.sum(grad_rows[None], self.inputs["rows_ptr"].dtype)[0],
            *(parameter.sum(0) for parameter in parameters),
            grad_delta,
        ]

    def chain(self, value: Tensor, shared: bool, backward: bool) -> Tensor | None:
        """What each segment starts with, or None where there is only one."""
        if self.segments == 1:
            return None
        sums = self.new(self.batch, self.routes, self.segments, self.states, self.channels)
        elapsed = self.new(self.batch, self.routes, self.segments, self.channels)
        block, tile = min(64, _power_of_two(self.channels, 32)), 16
        self.segment_kernels.segment_kernel[self.grid(self.batch)](
            value_ptr=value,
            sum_ptr=sums,
            elapsed_ptr=elapsed,
            SHARED=shared,
            BACKWARD=backward,
            BLOCK_D=block,
            TILE=tile,
            VECTOR=1,
            EVEN=self.steps % tile == 0,
            WHOLE=self.channels % block == 0,
            num_warps=block // 32,
            **self.inputs,
            **self.shape,
        )
        entry = torch.empty_like(sums)
        blocks = -(-self.channels // 32)
        self.segment_kernels.carry_kernel[(blocks * self.batch * self.routes,)](
            sum_ptr=sums,
            elapsed_ptr=elapsed,
            decay_ptr=self.A,
            entry_ptr=entry,
            BACKWARD=backward,
            BLOCK_D=32,
            num_warps=1,
            **{
                name: self.shape[name]
                for name in ("channels", "routes", "segments", "STATES", "BLOCK_N")
            },
        )
        return entry

    def sum(self, parts: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Over the second axis, in the order of its entries and in float32."""
        total = parts.new_empty(parts.shape[0], *parts.shape[2:], dtype=dtype or parts.dtype)
        size, block = total[0].numel(), 1024
        self.kernels.merge_kernel[(-(-size // block) * parts.shape[0],)](
            parts, total, size, COUNT=parts.shape[1], BLOCK=block
        )
        return total


def _precision(x: Tensor) -> str:
    if torch.version.hip is not None:
        return "ieee"
    return "tf32x3" if x.dtype == torch.float32 else "tf32"


def empty_states(x: Tensor, routes: int, steps: int, states: int, save: int) -> Tensor:
    if save == 0:
        return x.new_empty(0, dtype=torch.float32)
    shape = (x.shape[0], routes, -(-steps // save), states, x.shape[-1])
    return x.new_empty(shape, dtype=torch.float32)


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device, whatever device its arguments are on."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
