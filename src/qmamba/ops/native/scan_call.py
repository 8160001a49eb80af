"""One call of the scan: its sizes, its parameters as the kernel reads them, and what is checked."""

from __future__ import annotations

import ctypes
import math
import weakref
from typing import NamedTuple

import torch
from torch import Tensor

from qmamba.errors import ShapeError
from qmamba.ops.native.handover import address, dtype_code
from qmamba.ops.native.library import load_kernel
from qmamba.ops.native.structs import ScanStruct
from qmamba.ops.scan.routes import require_routes

CHANNEL_MULTIPLE = 16
"""Parameters are zero-padded to a multiple of this many channels."""


def round_up(channels: int) -> int:
    """To the next multiple of :data:`CHANNEL_MULTIPLE`."""
    return -(-channels // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


def padded(parameter: Tensor) -> Tensor:
    """float32, contiguous, last axis zero-padded to the multiple that the kernel reads."""
    missing = -parameter.shape[-1] % CHANNEL_MULTIPLE
    return torch.nn.functional.pad(parameter.float(), (0, missing)).contiguous()


class PackedParameters(NamedTuple):
    """The parameters of a scan as the kernel reads them: float32, channels last and padded."""

    dt_weight: Tensor
    """``(routes, rank, padded)``."""
    dt_bias: Tensor
    """``(routes, padded)``."""
    decay: Tensor
    """``(routes, states, padded)``: A / log(2)."""
    skip: Tensor
    """``(routes, padded)``, or ``(padded)``, the sum over routes, for a merged scan."""

    @classmethod
    def pack(
        cls, dt_weight: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor, merge: bool
    ) -> PackedParameters:
        """From the layout of :func:`qmamba.ops.ss2d`.

        Raises:
            ShapeError: the parameters do not fit together.
        """
        if dt_weight.dim() != 3 or A.dim() != 3:
            raise ShapeError(
                "The argument dt_weight must be (routes, channels, rank) and A (routes, channels, "
                "states), got "
                f"{tuple(dt_weight.shape)} and {tuple(A.shape)}."
            )
        rows = tuple(A.shape[:2])
        found = (tuple(dt_weight.shape[:2]), tuple(dt_bias.shape), tuple(D.shape))
        if found != (rows, rows, rows):
            raise ShapeError(
                f"dt_weight, dt_bias and D must be for {rows[0]} routes and {rows[1]} channels as "
                f"A is, got {found[0]}, {found[1]} and {found[2]}."
            )
        return cls(
            dt_weight=padded(dt_weight.transpose(1, 2)),
            dt_bias=padded(dt_bias),
            decay=padded(A.transpose(1, 2) / math.log(2)),
            skip=padded(D.sum(0) if merge else D),
        )

    @classmethod
    def kept(
        cls, dt_weight: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor, merge: bool
    ) -> PackedParameters:
        """As :meth:`pack`, but packed anew only if a value is another than at the last call.

        Packing transposes, which takes as long as a scan of few pixels; comparing values takes a
        tenth of it and sees every edit, those through ``.data`` as well. What was packed is kept
        as long as ``dt_weight`` lives, which has to be the same object at the next call.
        """
        given = tuple(t.detach() for t in (dt_weight, dt_bias, A, D))
        key = (id(dt_weight), merge)
        known = _PACKED.get(key)
        if known is not None and known.owner() is dt_weight:
            pairs = zip(known.given, given, strict=True)
            if all(_holds(new, old) for old, new in pairs):
                return known.packed
        with torch.no_grad():
            packed = cls.pack(dt_weight, dt_bias, A, D, merge)
            copies = tuple(t.clone(memory_format=torch.contiguous_format) for t in given)
        owner = weakref.ref(dt_weight, lambda _: _PACKED.pop(key, None))
        _PACKED[key] = _Kept(owner, copies, packed)
        return packed


class _Kept(NamedTuple):
    """Packed parameters, and the values that they were packed from."""

    owner: weakref.ref[Tensor]
    given: tuple[Tensor, ...]
    packed: PackedParameters


_PACKED: dict[tuple[int, bool], _Kept] = {}


def _holds(tensor: Tensor, copy: Tensor) -> bool:
    """Whether a tensor has the bits of a contiguous copy."""
    if tensor.dtype != copy.dtype or tensor.shape != copy.shape:
        return False
    if not tensor.is_contiguous():
        return torch.equal(tensor, copy)
    compare = load_kernel().library.memcmp  # of the C library that the kernel is linked with
    pointers = (ctypes.c_void_p(t.data_ptr()) for t in (tensor, copy))
    return compare(*pointers, ctypes.c_size_t(copy.nbytes)) == 0


class ScanCall:
    """One call together with the packed tensors that it points into.

    Args:
        x: float32 or bfloat16 ``(batch, pixels, channels)``, or with a routes axis after the batch.
        projected: float32 ``(batch, pixels, routes, rank + 2 * states)``.
        order: int32 ``(routes, steps)``, or with a batch axis before.
        parameters: for as many routes and channels.
        merge: sum the routes; needs one map for all routes.
        softplus: of delta.

    Raises:
        ShapeError: a tensor has another dtype, device, layout or size than the others ask for, or
            the table names a pixel that does not exist.
    """

    def __init__(
        self,
        x: Tensor,
        projected: Tensor,
        order: Tensor,
        parameters: PackedParameters,
        *,
        merge: bool,
        softplus: bool,
    ) -> None:
        dtype = dtype_code("x", x)
        shared = x.dim() == 3
        if (
            x.dim() not in (3, 4)
            or 0 in x.shape
            or order.dim() not in (2, 3)
            or (merge and not shared)
        ):
            raise ShapeError(
                "The argument x must be (batch, pixels, channels), or unmerged (batch, routes, "
                "pixels, "
                "channels), not empty, and the route table ([batch,] routes, steps), got "
                f"{tuple(x.shape)} and {tuple(order.shape)}."
            )
        batch, pixels, channels = x.shape[0], x.shape[-2], x.shape[-1]
        routes, steps = order.shape[-2:]
        order_shape = (batch, routes, steps) if order.dim() == 3 else (routes, steps)
        rank, states = parameters.dt_weight.shape[1], parameters.decay.shape[1]
        width = round_up(channels)
        if states < 1 or parameters.decay.shape[0] != routes:
            raise ShapeError(
                f"A scan needs at least 1 state and parameters for its {routes} routes, got A for "
                f"{parameters.decay.shape[0]} routes and {states} states."
            )
        require_routes(order, pixels)
        self.map_shape = (batch, pixels, channels) if merge else (batch, routes, pixels, channels)
        x_shape = (batch, pixels, channels) if shared else (batch, routes, pixels, channels)
        self.call = ScanStruct(
            x=address("x", x, x_shape, x.dtype),
            projected=address("projected", projected, (batch, pixels, routes, rank + 2 * states)),
            order=address("routes", order, order_shape, torch.int32),
            dt_weight=address("dt_weight", parameters.dt_weight, (routes, rank, width)),
            dt_bias=address("dt_bias", parameters.dt_bias, (routes, width)),
            decay=address("A", parameters.decay, (routes, states, width)),
            skip=address("D", parameters.skip, (width,) if merge else (routes, width)),
            batch=batch,
            pixels=pixels,
            steps=steps,
            channels=channels,
            padded=width,
            routes=routes,
            rank=rank,
            states=states,
            dtype=dtype,
            shared=int(shared),
            merged=int(merge),
            softplus=int(softplus),
            own_orders=int(order.dim() == 3),
        )
        self._held = (x, projected, order, parameters)

    def use_delta(self, delta: Tensor) -> None:
        """Take delta as given rather than from its low rank: float32, like an unmerged map."""
        shape = (self.call.batch, self.call.routes, self.call.pixels, self.call.channels)
        self.call.delta = address("delta", delta, shape)

    def saved_shape(self, segment: int) -> tuple[int, ...]:
        """Of the states that training keeps, one in every ``segment`` steps."""
        call = self.call
        segments = -(-call.steps // segment)
        return (call.batch, call.routes, segments, call.states, call.padded)
