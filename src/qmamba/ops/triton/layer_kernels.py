"""Triton kernels of what stands around the scan, on channel-last maps seen as rows of channels.

Each reads and writes a map once where plain PyTorch makes a pass for every step; none has a
gradient. All arithmetic is float32 whatever the pointers point to.
"""

# mypy: ignore-errors
# Triton compiles the kernels; their arguments have no Python types.

from __future__ import annotations

import triton
import triton.language as tl

from qmamba.ops.triton.tiles import load_float

_ROOT_HALF = tl.constexpr(0.7071067811865476)


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * _ROOT_HALF))


@triton.jit
def silu(x):
    return x / (1.0 + tl.exp(-x))


@triton.jit
def norm_kernel(
    x_ptr,  # (rows, CHANNELS)
    branch_ptr,  # (rows, CHANNELS), if ADDED
    scale_ptr,  # (CHANNELS), if SCALED
    weight_ptr,
    bias_ptr,
    gate_ptr,  # (rows, CHANNELS) with a stride between rows, if GATED
    sum_ptr,  # out (rows, CHANNELS), if ADDED
    y_ptr,  # out (rows, CHANNELS)
    rows,
    gate_stride,
    eps,
    CHANNELS: tl.constexpr,
    ADDED: tl.constexpr,
    SCALED: tl.constexpr,
    GATED: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Norm of ``x * scale + branch``, then times the SiLU of a gate, or through GELU."""
    row = (tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)).to(tl.int64)
    channel = tl.arange(0, BLOCK_C)
    own = channel < CHANNELS
    mask = (row < rows)[:, None] & own[None, :]
    at = (row * CHANNELS)[:, None] + channel[None, :]
    x = load_float(x_ptr, at, mask)
    if SCALED:
        x *= load_float(scale_ptr, channel, own)[None, :]
    if ADDED:
        x += load_float(branch_ptr, at, mask)
        tl.store(sum_ptr + at, x.to(sum_ptr.dtype.element_ty), mask=mask)
    mean = tl.sum(x, axis=1) / CHANNELS
    centered = tl.where(mask, x - mean[:, None], 0.0)
    variance = tl.sum(centered * centered, axis=1) / CHANNELS
    y = centered * (1.0 / tl.sqrt(variance + eps))[:, None]
    y = y * load_float(weight_ptr, channel, own)[None, :]
    y += load_float(bias_ptr, channel, own)[None, :]
    if GELU:
        y = gelu(y)
    if GATED:
        y *= silu(load_float(gate_ptr, (row * gate_stride)[:, None] + channel[None, :], mask))
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def bias_gelu_kernel(
    x_ptr,  # (rows, CHANNELS), in place
    bias_ptr,
    size,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """GELU of rows and a bias."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    x = load_float(x_ptr, at, mask) + load_float(bias_ptr, at % CHANNELS, mask)
    tl.store(x_ptr + at, gelu(x).to(x_ptr.dtype.element_ty), mask=mask)


@triton.jit
def depthwise_kernel(
    x_ptr,  # (batch, height, width, CHANNELS) with a stride between pixels
    taps_ptr,  # (SIZE * SIZE, CHANNELS)
    bias_ptr,  # (CHANNELS), if BIASED
    y_ptr,  # out (batch, height, width, CHANNELS)
    height,
    width,
    pixel_stride,
    CHANNELS: tl.constexpr,
    SIZE: tl.constexpr,
    BIASED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """SiLU of a depthwise convolution that keeps the sides, zero outside of the map."""
    pixels = height * width
    blocks = tl.cdiv(CHANNELS, BLOCK_C)
    block = tl.program_id(0) % blocks
    program = tl.program_id(0) // blocks
    stretches = tl.cdiv(pixels, BLOCK_P)
    image = (program // stretches).to(tl.int64)
    pixel = (program % stretches) * BLOCK_P + tl.arange(0, BLOCK_P)
    row, column = pixel // width, pixel % width
    channel = block * BLOCK_C + tl.arange(0, BLOCK_C)
    own = channel < CHANNELS
    x_ptr += image * pixels * pixel_stride
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for tap in tl.static_range(SIZE * SIZE):
        y = row + (tap // SIZE - SIZE // 2)
        x = column + (tap % SIZE - SIZE // 2)
        inside = (pixel < pixels) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        at = ((y * width + x).to(tl.int64) * pixel_stride)[:, None] + channel[None, :]
        value = load_float(x_ptr, at, inside[:, None] & own[None, :])
        total += value * load_float(taps_ptr + tap * CHANNELS, channel, own)[None, :]
    if BIASED:
        total += load_float(bias_ptr, channel, own)[None, :]
    at = (image * pixels + pixel)[:, None] * CHANNELS + channel[None, :]
    mask = (pixel < pixels)[:, None] & own[None, :]
    tl.store(y_ptr + at, silu(total).to(y_ptr.dtype.element_ty), mask=mask)
