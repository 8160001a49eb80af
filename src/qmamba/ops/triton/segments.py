"""Triton kernels that cut a route into segments which run side by side.

A short batch of long routes makes too few programs to fill a device. One kernel finds, for all
segments at once, what each adds to the state behind it (on the way back: to the gradient of the
state before it), and one chains these sums, so that the scan can start every segment from the right
state. That reads the inputs twice, which pays where most of the device would stand idle otherwise.
"""

# mypy: ignore-errors
# Triton compiles the kernels; their arguments have no Python types.

from __future__ import annotations

import triton
import triton.language as tl

from qmamba.ops.triton.tiles import (
    LOG2_E,
    channels_of,
    load_float,
    load_low,
    load_map,
    load_weight,
    place,
    row_of,
    steps_of,
    time_step,
)


@triton.jit
def segment_kernel(
    value_ptr,  # x; with BACKWARD grad_y. (batch, [routes,] pixels, channels)
    rows_ptr,
    delta_ptr,
    routes_ptr,
    weight_ptr,
    bias_ptr,
    decay_ptr,
    sum_ptr,  # out (batch, routes, segments, STATES, channels)
    elapsed_ptr,  # out (batch, routes, segments, channels): total of the time steps
    pixels,
    steps,
    channels,
    routes,
    own_routes,
    segments,
    segment_steps,
    SHARED: tl.constexpr,
    BACKWARD: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK_R: tl.constexpr,
    STATES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    PADDED: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE: tl.constexpr,
    VECTOR: tl.constexpr,
    EVEN: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """What a segment adds to the state behind it, or to the gradient of the state before it.

    Each step's share decays with the time from there to the end of the segment (backward: from its
    beginning up to there), so a running total of the time steps replaces the scan.
    """
    block, route, segment, image = place(tl.cdiv(channels, BLOCK_D), routes, segments)
    channel, own = channels_of(block, channels, BLOCK_D, VECTOR, WHOLE)
    parameter = route * channels + channel
    sequence = image * routes + route
    WIDTH: tl.constexpr = RANK + 2 * STATES

    bias = load_float(bias_ptr, parameter, own)
    if RANK > 0:
        weight = load_weight(weight_ptr, parameter, own, RANK, BLOCK_R)
    state = tl.arange(0, BLOCK_N)[:, None]
    sums = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    elapsed = tl.zeros([BLOCK_D], tl.float32)

    value_ptr += (image if SHARED else sequence) * pixels * channels
    delta_ptr += sequence * pixels * channels
    rows_ptr += (image * pixels * routes + route) * WIDTH
    routes_ptr += (image * own_routes + route) * steps
    begin = segment * segment_steps
    tiles = tl.cdiv(tl.minimum(segment_steps, steps - begin), TILE)
    for index in range(tiles):
        start = begin + (tiles - 1 - index if BACKWARD else index) * TILE
        pixel, inside, live = steps_of(routes_ptr, start, steps, TILE, EVEN, PADDED, WIDE)
        row = pixel * (routes * WIDTH)
        if RANK > 0:
            low = load_low(rows_ptr, row, inside, RANK, BLOCK_R)
            raw = tl.trans(tl.dot(weight, tl.trans(low), input_precision=PRECISION))
        else:
            raw = load_map(delta_ptr, pixel, inside, channel, own, channels)
        value = load_map(value_ptr, pixel, inside, channel, own, channels)
        dt, _ = time_step(raw + bias[None, :], live, SOFTPLUS)
        time = tl.cumsum(dt, axis=0)
        total = tl.sum(dt, axis=0)
        if not BACKWARD:
            value *= dt
            time = total[None, :] - time
        for n in range(STATES):
            coefficient = load_float(rows_ptr + RANK + n + (STATES if BACKWARD else 0), row, inside)
            rate = load_float(decay_ptr, parameter * STATES + n, own) * LOG2_E
            share = tl.sum(tl.exp2(time * rate[None, :]) * value * coefficient[:, None], axis=0)
            kept = tl.exp2(total * rate) * row_of(sums, n, BLOCK_N)
            sums = tl.where(state == n, (kept + share)[None, :], sums)
        elapsed += total

    at = sequence * segments + segment
    tl.store(elapsed_ptr + at * channels + channel, elapsed, mask=own)
    at = (at * STATES + state) * channels + channel[None, :]
    tl.store(sum_ptr + at, sums, mask=(state < STATES) & own[None, :])


@triton.jit
def carry_kernel(
    sum_ptr,  # (batch, routes, segments, STATES, channels)
    elapsed_ptr,  # (batch, routes, segments, channels)
    decay_ptr,  # (routes, channels, STATES)
    entry_ptr,  # out, like sum
    channels,
    routes,
    segments,
    BACKWARD: tl.constexpr,
    STATES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The state with which each segment starts, or the gradient with which its way back starts."""
    blocks = tl.cdiv(channels, BLOCK_D)
    sequence = (tl.program_id(0) // blocks).to(tl.int64)
    channel = tl.program_id(0) % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    own = channel < channels
    state = tl.arange(0, BLOCK_N)[:, None]
    mask = (state < STATES) & own[None, :]
    at = ((sequence % routes * channels + channel) * STATES)[None, :] + state
    rate = load_float(decay_ptr, at, mask) * LOG2_E
    carried = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for index in range(segments):
        segment = sequence * segments + (segments - 1 - index if BACKWARD else index)
        at = (segment * STATES + state) * channels + channel[None, :]
        tl.store(entry_ptr + at, carried, mask=mask)
        elapsed = load_float(elapsed_ptr + segment * channels, channel, own)
        carried = tl.exp2(rate * elapsed[None, :]) * carried + load_float(sum_ptr, at, mask)
