"""Triton kernels of the selective scan along routes, forward and backward.

One program works on one image, one route and ``BLOCK_D`` channels, and walks along its route in
tiles of ``TILE`` steps. What that trades for what:

* The permuted copies of the map, the time steps and the states never exist in memory: a tile is
  gathered by the route's index table, used and dropped. In exchange ``x`` is read once per route,
  mostly from the cache.
* Inside a tile the recurrence is an associative scan over (decay, input) pairs. That costs one more
  multiplication per step than the plain recurrence, but there is no chain of dependent loads, and
  the low-rank time step of a whole tile comes from the tensor cores.
* No program adds to what another one wrote. Routes write partial maps, channel blocks write partial
  gradients of the projection, groups of images write partial gradients of the parameters, and they
  are summed afterwards in a fixed order. That costs memory traffic and buys equal bits every time.
* The forward pass keeps one state per ``SAVE`` steps; the backward pass starts from these and
  computes everything else again.
* Where batch, routes and channels make too few programs to fill the device, a route is cut into
  segments that run side by side: ``segment_kernel`` finds what each adds to the state behind it (on
  the way back: to the gradient before it), ``carry_kernel`` chains these, and the scan starts every
  segment from the right state.

Index -1 in a route is padding: input, low-rank time step, B and C are zero there and nothing is
stored, but the state decays. Steps behind the end of a route have a time step of zero, which leaves
the state as it is.
"""

# mypy: ignore-errors
# Triton compiles the kernels; their arguments have no Python types.

from __future__ import annotations

import triton
import triton.language as tl

from qmamba.ops.triton.tiles import (
    LOG2_E,
    channels_of,
    join,
    join_back,
    load_float,
    load_low,
    load_map,
    load_weight,
    place,
    row_of,
    steps_of,
    store_map,
    time_step,
)


@triton.jit(do_not_specialize=["fullness"])
def scan_kernel(
    x_ptr,  # (batch, [routes,] pixels, channels); without routes if SHARED
    rows_ptr,  # (batch, pixels, routes, RANK + 2 * STATES): low-rank time step, B and C
    delta_ptr,  # (batch, routes, pixels, channels), read instead of a time step of RANK 0
    routes_ptr,  # ([batch,] routes, steps), int32
    weight_ptr,  # (routes, channels, RANK)
    bias_ptr,  # (routes, channels)
    decay_ptr,  # (routes, channels, STATES): A
    skip_ptr,  # (routes, channels)
    entry_ptr,  # (batch, routes, segments, STATES, channels): state before each, if SEGMENTED
    y_ptr,  # out (batch, routes, pixels, channels)
    saved_ptr,  # out (batch, routes, ceil(steps / SAVE), STATES, channels), if SAVE
    pixels,
    steps,
    channels,
    routes,
    own_routes,  # routes where each image has its own, else 0
    segments,
    segment_steps,
    fullness,  # only for the autotuner
    SHARED: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK_R: tl.constexpr,
    STATES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    PADDED: tl.constexpr,
    SEGMENTED: tl.constexpr,
    WIDE: tl.constexpr,
    SAVE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE: tl.constexpr,
    VECTOR: tl.constexpr,
    EVEN: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """The output of every route in raster order, with its skip."""
    block, route, segment, image = place(tl.cdiv(channels, BLOCK_D), routes, segments)
    channel, own = channels_of(block, channels, BLOCK_D, VECTOR, WHOLE)
    parameter = route * channels + channel
    sequence = image * routes + route
    WIDTH: tl.constexpr = RANK + 2 * STATES

    bias = load_float(bias_ptr, parameter, own)
    skip = load_float(skip_ptr, parameter, own)
    if RANK > 0:
        weight = load_weight(weight_ptr, parameter, own, RANK, BLOCK_R)
    state = tl.arange(0, BLOCK_N)[:, None]
    per_state = state * channels + channel[None, :]
    own_states = (state < STATES) & own[None, :]
    if SEGMENTED:
        entry_ptr += (sequence * segments + segment) * STATES * channels
        states = load_float(entry_ptr, per_state, own_states)
    else:
        states = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)

    x_ptr += (image if SHARED else sequence) * pixels * channels
    delta_ptr += sequence * pixels * channels
    y_ptr += sequence * pixels * channels
    rows_ptr += (image * pixels * routes + route) * WIDTH
    routes_ptr += (image * own_routes + route) * steps
    begin = segment * segment_steps
    end = tl.minimum(begin + segment_steps, steps)
    for start in range(begin, end, TILE):
        if SAVE > 0:  # noqa: SIM102 - known when the kernel is compiled, unlike the inner one
            if start % SAVE == 0:
                at = (sequence * tl.cdiv(steps, SAVE) + start // SAVE) * STATES * channels
                tl.store(saved_ptr + at + per_state, states, mask=own_states)
        pixel, inside, live = steps_of(routes_ptr, start, end, TILE, EVEN, PADDED, WIDE)
        row = pixel * (routes * WIDTH)
        if RANK > 0:
            # The layout of the last load in the program wins over that of the tensor cores: so the
            # product comes before the load of x, and only its result is converted.
            low = load_low(rows_ptr, row, inside, RANK, BLOCK_R)
            raw = tl.trans(tl.dot(weight, tl.trans(low), input_precision=PRECISION))
        else:
            raw = load_map(delta_ptr, pixel, inside, channel, own, channels)
        x = load_map(x_ptr, pixel, inside, channel, own, channels)
        dt, _ = time_step(raw + bias[None, :], live, SOFTPLUS)
        y = x * skip[None, :]
        for n in range(STATES):
            b = load_float(rows_ptr + RANK + n, row, inside)
            c = load_float(rows_ptr + RANK + STATES + n, row, inside)
            rate = load_float(decay_ptr, parameter * STATES + n, own) * LOG2_E
            factor, h = tl.associative_scan(
                (tl.exp2(dt * rate[None, :]), dt * x * b[:, None]), 0, join
            )
            h += factor * row_of(states, n, BLOCK_N)[None, :]
            states = tl.where(state == n, row_of(h, TILE - 1, TILE)[None, :], states)
            y += h * c[:, None]
        store_map(y_ptr, y, pixel, inside, channel, own, channels)


@triton.jit(do_not_specialize=["fullness"])
def scan_backward_kernel(
    grad_y_ptr,  # (batch, [routes,] pixels, channels); without routes if MERGED
    x_ptr,
    rows_ptr,
    delta_ptr,
    routes_ptr,
    weight_ptr,
    bias_ptr,
    decay_ptr,
    skip_ptr,
    saved_ptr,  # (batch, routes, ceil(steps / TILE), STATES, channels)
    flow_ptr,  # (batch, routes, segments, STATES, channels): gradient behind each, if SEGMENTED
    grad_x_ptr,  # out (batch, routes, pixels, channels)
    grad_rows_ptr,  # out (channel blocks, batch, pixels, routes, RANK + 2 * STATES)
    grad_delta_ptr,  # out, like delta
    grad_weight_ptr,  # out (groups of images, segments, routes, channels, RANK)
    grad_bias_ptr,  # out (groups of images, segments, routes, channels)
    grad_decay_ptr,  # out (groups of images, segments, routes, channels, STATES)
    grad_skip_ptr,  # out, like grad_bias
    batch,
    pixels,
    steps,
    channels,
    routes,
    own_routes,
    segments,
    segment_steps,
    group,  # images per program
    fullness,  # only for the autotuner
    SHARED: tl.constexpr,
    MERGED: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK_R: tl.constexpr,
    STATES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    PADDED: tl.constexpr,
    SEGMENTED: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE: tl.constexpr,
    VECTOR: tl.constexpr,
    EVEN: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Gradients of everything, each summed only over what the program itself has seen."""
    block, route, segment, first = place(tl.cdiv(channels, BLOCK_D), routes, segments)
    channel, own = channels_of(block, channels, BLOCK_D, VECTOR, WHOLE)
    parameter = route * channels + channel
    WIDTH: tl.constexpr = RANK + 2 * STATES

    bias = load_float(bias_ptr, parameter, own)
    skip = load_float(skip_ptr, parameter, own)
    grad_bias = tl.zeros([BLOCK_D], tl.float32)
    grad_skip = tl.zeros([BLOCK_D], tl.float32)
    if RANK > 0:
        weight = load_weight(weight_ptr, parameter, own, RANK, BLOCK_R)
        grad_weight = tl.zeros([BLOCK_D, BLOCK_R], tl.float32)
    state = tl.arange(0, BLOCK_N)[:, None]
    per_state = state * channels + channel[None, :]
    own_states = (state < STATES) & own[None, :]
    grad_decay = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)

    begin = segment * segment_steps
    tiles = tl.cdiv(tl.minimum(segment_steps, steps - begin), TILE)
    for image in range(first * group, tl.minimum(first * group + group, batch)):
        sequence = image * routes + route
        if SEGMENTED:
            at = (sequence * segments + segment) * STATES * channels
            flows = load_float(flow_ptr + at, per_state, own_states)
        else:
            flows = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        own_map = sequence * pixels * channels
        order_ptr = routes_ptr + (image * own_routes + route) * steps
        x_map = x_ptr + (image if SHARED else sequence) * pixels * channels
        grad_y_map = grad_y_ptr + (image if MERGED else sequence) * pixels * channels
        rows = rows_ptr + (image * pixels * routes + route) * WIDTH
        grad_rows = grad_rows_ptr + ((block * batch + image) * pixels * routes + route) * WIDTH
        saved = saved_ptr + sequence * tl.cdiv(steps, TILE) * STATES * channels
        for index in range(tiles):
            start = begin + (tiles - 1 - index) * TILE
            pixel, inside, live = steps_of(order_ptr, start, steps, TILE, EVEN, PADDED, WIDE)
            row = pixel * (routes * WIDTH)
            if RANK > 0:
                # Before the loads of x and grad_y, for the reason given in scan_kernel.
                low = load_low(rows, row, inside, RANK, BLOCK_R)
                raw = tl.trans(tl.dot(weight, tl.trans(low), input_precision=PRECISION))
            else:
                raw = load_map(delta_ptr + own_map, pixel, inside, channel, own, channels)
            x = load_map(x_map, pixel, inside, channel, own, channels)
            grad_y = load_map(grad_y_map, pixel, inside, channel, own, channels)
            dt, slope = time_step(raw + bias[None, :], live, SOFTPLUS)
            scaled = dt * x
            grad_scaled = tl.zeros([TILE, BLOCK_D], tl.float32)
            grad_dt = tl.zeros([TILE, BLOCK_D], tl.float32)
            for n in range(STATES):
                b = load_float(rows + RANK + n, row, inside)
                c = load_float(rows + RANK + STATES + n, row, inside)
                rate = load_float(decay_ptr, parameter * STATES + n, own)
                decay = tl.exp2(dt * (rate * LOG2_E)[None, :])
                entering = scaled * b[:, None]
                factor, h = tl.associative_scan((decay, entering), 0, join)
                before = saved + (start // TILE * STATES + n) * channels
                h += factor * load_float(before, channel, own)[None, :]
                # A scan of flipped tiles, not a reversed scan: Triton reverses by exchanging every
                # value between threads, while flipping steps within a thread costs nothing.
                ones = tl.full([TILE, BLOCK_D], 1.0, tl.float32)
                _, grad_h, factor = tl.associative_scan(
                    (tl.flip(decay, 0), tl.flip(grad_y * c[:, None], 0), ones), 0, join_back
                )
                grad_h = tl.flip(grad_h + factor * row_of(flows, n, BLOCK_N)[None, :], 0)
                flows = tl.where(state == n, row_of(decay * grad_h, 0, TILE)[None, :], flows)
                # What the state before contributed, decay * h[t-1], times the gradient.
                kept = grad_h * (h - entering)
                grad_decay += tl.where(state == n, tl.sum(dt * kept, axis=0)[None, :], 0.0)
                grad_dt += kept * rate[None, :]
                grad_scaled += grad_h * b[:, None]
                tl.store(grad_rows + RANK + n + row, tl.sum(grad_h * scaled, axis=1), mask=inside)
                grad_c = tl.sum(grad_y * h, axis=1)
                tl.store(grad_rows + RANK + STATES + n + row, grad_c, mask=inside)
            grad_raw = (grad_dt + grad_scaled * x) * slope
            grad_x = grad_scaled * dt + grad_y * skip[None, :]
            grad_bias += tl.sum(grad_raw, axis=0)
            grad_skip += tl.sum(grad_y * x, axis=0)
            store_map(grad_x_ptr + own_map, grad_x, pixel, inside, channel, own, channels)
            if RANK > 0:
                grad_low = tl.dot(grad_raw, weight, input_precision=PRECISION)
                rank = tl.arange(0, BLOCK_R)[None, :]
                mask = inside[:, None] & (rank < RANK)
                tl.store(grad_rows + row[:, None] + rank, grad_low, mask=mask)
                grad_weight += tl.dot(tl.trans(grad_raw), low, input_precision=PRECISION)
            else:
                store_map(grad_delta_ptr + own_map, grad_raw, pixel, inside, channel, own, channels)

    parameter += (first * segments + segment) * routes * channels
    tl.store(grad_bias_ptr + parameter, grad_bias, mask=own)
    tl.store(grad_skip_ptr + parameter, grad_skip, mask=own)
    tl.store(grad_decay_ptr + (parameter * STATES)[None, :] + state, grad_decay, mask=own_states)
    if RANK > 0:
        rank = tl.arange(0, BLOCK_R)[None, :]
        at = (parameter * RANK)[:, None] + rank
        tl.store(grad_weight_ptr + at, grad_weight, mask=own[:, None] & (rank < RANK))


@triton.jit
def merge_kernel(
    parts_ptr,  # (outer, COUNT, size)
    sum_ptr,  # out (outer, size)
    size,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum of parts, always in the same order."""
    blocks = tl.cdiv(size, BLOCK)
    outer = (tl.program_id(0) // blocks).to(tl.int64)
    at = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    parts_ptr += outer * COUNT * size
    total = load_float(parts_ptr, at, mask)
    for part in tl.static_range(1, COUNT):
        total += load_float(parts_ptr + part * size, at, mask)
    tl.store(sum_ptr + outer * size + at, total.to(sum_ptr.dtype.element_ty), mask=mask)


MOST_STEPS = 64
"""Every tile divides this, so a segment that is a multiple of it is a whole number of tiles."""
