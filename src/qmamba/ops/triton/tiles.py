"""What the Triton kernels of the scan do to one tile of ``(steps, channels)``.

These functions follow Triton's rules: their source is compiled, and arguments in capitals are
compile-time constants. All arithmetic is float32 whatever the pointers point to.
"""

# mypy: ignore-errors
# Triton compiles the functions; their arguments have no Python types.

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def join(decay_a, input_a, decay_b, input_b):
    """Two stretches of ``h -> decay * h + input``, one after the other, as one."""
    return decay_a * decay_b, decay_b * input_a + input_b


@triton.jit
def join_back(decay_b, gradient_b, factor_b, decay_a, gradient_a, factor_a):
    """Two stretches of the way back as one; ``a`` lies before ``b``, which was passed first.

    With the flow F entering behind a stretch, the gradient of its first state is
    ``gradient + factor * F``, and ``decay`` (of that state) times this flows out in front.
    """
    factor = factor_a * decay_b
    return decay_a, gradient_a + factor * gradient_b, factor * factor_b


@triton.jit
def softplus(raw):
    """Softplus and its derivative.

    With ``e = exp(-|raw|)``, softplus is ``max(raw, 0) + log(1 + e)``. The polynomial is
    ``log(1 + e) / e`` on [0, 1] within 2e-7, so tiny time steps keep their relative precision, and
    the special function unit, busy with exponentials, is spared.
    """
    e = tl.exp2(-tl.abs(raw) * LOG2_E)
    p = 0.005232694625 * e - 0.02950524331
    p = p * e + 0.07822596516
    p = p * e - 0.1366324754
    p = p * e + 0.1910600796
    p = p * e - 0.2484298266
    p = p * e + 0.3331909689
    p = p * e - 0.4999949315
    p = p * e + 0.9999999699
    share = 1.0 / (1.0 + e)
    return tl.maximum(raw, 0.0) + e * p, tl.where(raw >= 0, share, e * share)


@triton.jit
def time_step(raw, live, SOFTPLUS: tl.constexpr):
    """The time step and its derivative by ``raw``, both zero behind the end of the route."""
    if SOFTPLUS:
        dt, slope = softplus(raw)
    else:
        dt = raw
        slope = tl.full(raw.shape, 1.0, tl.float32)
    return tl.where(live[:, None], dt, 0.0), tl.where(live[:, None], slope, 0.0)


@triton.jit
def place(blocks, routes, segments):
    """Channel block, route, segment and image (or group of images) of a program, fastest first.

    Programs that read the same part of ``x`` are neighbors, so that all but one find it cached.
    """
    program = tl.program_id(0)
    block = program % blocks
    program = program // blocks
    route = program % routes
    program = program // routes
    return block, route, program % segments, (program // segments).to(tl.int64)


@triton.jit
def channels_of(block, channels, BLOCK_D: tl.constexpr, VECTOR: tl.constexpr, WHOLE: tl.constexpr):
    """Channels of a block, and which of them exist.

    ``VECTOR`` is how many neighbors a thread may load at once, and that decides how the compiler
    spreads a tile over a warp. With ``BLOCK_D = 32 * VECTOR * warps`` all threads lie along the
    channels and each runs through its steps alone; otherwise they share the steps of a channel, and
    every scan becomes an exchange of values between threads, at about twice the instructions.
    """
    channel = tl.multiple_of(block * BLOCK_D + tl.arange(0, BLOCK_D), VECTOR)
    own = tl.full([BLOCK_D], True, tl.int1) if WHOLE else channel < channels
    return channel, own


@triton.jit
def steps_of(
    route_ptr,
    start,
    end,
    TILE: tl.constexpr,
    EVEN: tl.constexpr,
    PADDED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Pixel of each step of a tile, which steps have one, and which lie before the end.

    Where all do, the masks are constants, and the compiler drops what they guard.
    """
    step = start + tl.arange(0, TILE)
    live = tl.full([TILE], True, tl.int1) if EVEN else step < end
    pixel = tl.load(route_ptr + step, mask=live, other=-1)
    inside = pixel >= 0 if PADDED or not EVEN else live
    if WIDE:
        pixel = pixel.to(tl.int64)
    return pixel, inside, live


@triton.jit
def load_map(map_ptr, pixel, inside, channel, own, channels):
    """A tile of a channel-last map, zero at padding."""
    at = (pixel * channels)[:, None] + channel[None, :]
    return tl.load(map_ptr + at, mask=inside[:, None] & own[None, :], other=0.0).to(tl.float32)


@triton.jit
def store_map(map_ptr, value, pixel, inside, channel, own, channels):
    at = (pixel * channels)[:, None] + channel[None, :]
    value = value.to(map_ptr.dtype.element_ty)
    tl.store(map_ptr + at, value, mask=inside[:, None] & own[None, :])


@triton.jit
def load_float(pointer, at, mask):
    return tl.load(pointer + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_weight(weight_ptr, parameter, own, RANK: tl.constexpr, BLOCK_R: tl.constexpr):
    """The weight of the time step, ``(BLOCK_D, BLOCK_R)``, zero beyond the rank."""
    rank = tl.arange(0, BLOCK_R)[None, :]
    return load_float(weight_ptr, (parameter * RANK)[:, None] + rank, own[:, None] & (rank < RANK))


@triton.jit
def load_low(rows_ptr, row, inside, RANK: tl.constexpr, BLOCK_R: tl.constexpr):
    """The low-rank time steps of a tile, ``(TILE, BLOCK_R)``, zero beyond the rank."""
    rank = tl.arange(0, BLOCK_R)[None, :]
    return load_float(rows_ptr, row[:, None] + rank, inside[:, None] & (rank < RANK))


@triton.jit
def row_of(tile, index, ROWS: tl.constexpr):
    """One row of a tile."""
    return tl.sum(tl.where((tl.arange(0, ROWS) == index)[:, None], tile, 0.0), axis=0)
