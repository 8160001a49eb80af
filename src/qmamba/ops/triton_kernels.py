"""Triton kernels of the selective scan along routes, forward and backward.

One program works on one image, one route and ``BLOCK_D`` channels, and walks along its route in
tiles of ``TILE`` steps. What that trades for what:

* The permuted copies of the map, the time steps and the states never exist in memory: a tile is
  gathered by the route's index table, used and dropped. In exchange ``x`` is read once per route,
  mostly from the cache.
* Inside a tile the recurrence is an associative scan over (decay, input) pairs. That costs one more
  multiplication per step than the plain recurrence, but there is no chain of dependent loads, and the
  low-rank time step of a whole tile comes from the tensor cores.
* No program adds to what another one wrote. Routes write partial maps, channel blocks write partial
  gradients of the projection, groups of images write partial gradients of the parameters, and they
  are summed afterwards in a fixed order. That costs memory traffic and buys equal bits in every run.
* The forward pass keeps one state per ``SAVE`` steps; the backward pass starts from these and
  computes everything else again.
* Where batch, routes and channels make too few programs to fill the device, a route is cut into
  segments that run side by side: ``segment_kernel`` finds what each adds to the state behind it (on
  the way back: to the gradient before it), ``carry_kernel`` chains these, and the scan then starts
  every segment from the right state.

All arithmetic is float32. Index -1 in a route is padding: input, low-rank time step, B and C are zero
there and nothing is stored, but the state decays. Steps behind the end of a route have a time step
of zero, which leaves the state as it is.
"""

# Ruff and mypy see plain functions; Triton compiles their source. What exists once per state is a
# tuple that the loops rebuild, because Triton has no arrays of tensors.

from __future__ import annotations

import triton
import triton.language as tl

from qmamba.ops.triton_tiles import (
    LOG2_E,
    channels_of,
    join,
    join_back,
    load_column,
    load_low,
    load_map,
    load_parameter,
    load_weight,
    place,
    row_of,
    steps_of,
    store_map,
    time_step,
)


@triton.jit
def scan_kernel(
    x_ptr,  # (batch, [routes,] pixels, channels)
    rows_ptr,  # (batch, pixels, routes, RANK + 2 * STATES): low-rank time step, B and C
    delta_ptr,  # (batch, routes, pixels, channels), read instead of the time step if RANK is 0
    routes_ptr,  # (routes, steps), int32
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
    segments,
    segment_steps,
    load,  # programs per multiprocessor, roughly; tells the autotuner short queues from long ones
    SHARED: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK_R: tl.constexpr,
    STATES: tl.constexpr,
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
    block, route, segment, image = place(segments, routes, tl.cdiv(channels, BLOCK_D))
    channel, own = channels_of(block, channels, BLOCK_D, VECTOR, WHOLE)
    parameter = route * channels + channel
    sequence = image * routes + route

    bias = load_parameter(bias_ptr, parameter, own)
    skip = load_parameter(skip_ptr, parameter, own)
    if RANK > 0:
        weight = load_weight(weight_ptr, parameter, own, RANK, BLOCK_R)
    decays = ()
    states = ()
    for n in tl.static_range(STATES):
        decays += (load_parameter(decay_ptr, parameter * STATES + n, own) * LOG2_E,)
        if SEGMENTED:
            at = ((sequence * segments + segment) * STATES + n) * channels
            states += (load_parameter(entry_ptr + at, channel, own),)
        else:
            states += (tl.zeros([BLOCK_D], tl.float32),)

    WIDTH: tl.constexpr = RANK + 2 * STATES
    x_ptr += (image if SHARED else sequence) * pixels * channels
    delta_ptr += sequence * pixels * channels
    y_ptr += sequence * pixels * channels
    rows_ptr += (image * pixels * routes + route) * WIDTH
    saved_ptr += sequence * tl.cdiv(steps, SAVE if SAVE > 0 else 1) * STATES * channels
    begin = segment * segment_steps
    end = tl.minimum(begin + segment_steps, steps)
    for start in range(begin, end, TILE):
        if SAVE > 0:
            if start % SAVE == 0:
                for n in tl.static_range(STATES):
                    at = (start // SAVE * STATES + n) * channels
                    tl.store(saved_ptr + at + channel, states[n], mask=own)
        pixel, inside, live = steps_of(
            routes_ptr + route * steps, start, end, TILE, EVEN, PADDED, WIDE
        )
        row = pixel * (routes * WIDTH)
        if RANK > 0:
            low = load_low(rows_ptr, row, inside, RANK, BLOCK_R)
            raw = tl.trans(tl.dot(weight, tl.trans(low), input_precision=PRECISION))
        else:
            raw = load_map(delta_ptr, pixel, inside, channel, own, channels)
        x = load_map(x_ptr, pixel, inside, channel, own, channels)
        dt, _ = time_step(raw + bias[None, :], live, SOFTPLUS)
        y = x * skip[None, :]
        next_states = ()
        for n in tl.static_range(STATES):
            b = load_column(rows_ptr + RANK + n, row, inside)
            c = load_column(rows_ptr + RANK + STATES + n, row, inside)
            decay = tl.exp2(dt * decays[n][None, :])
            factor, h = tl.associative_scan((decay, dt * x * b[:, None]), 0, join)
            h += factor * states[n][None, :]
            y += h * c[:, None]
            next_states += (row_of(h, TILE - 1, TILE),)
        states = next_states
        store_map(y_ptr, y, pixel, inside, channel, own, channels)


@triton.jit
def scan_backward_kernel(
    grad_y_ptr,  # (batch, [routes,] pixels, channels)
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
    grad_rows_ptr,  # out (blocks, batch, pixels, routes, RANK + 2 * STATES)
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
    segments,
    segment_steps,
    group,  # images per program
    load,
    SHARED: tl.constexpr,
    MERGED: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK_R: tl.constexpr,
    STATES: tl.constexpr,
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
    block, route, segment, first = place(segments, routes, tl.cdiv(channels, BLOCK_D))
    channel, own = channels_of(block, channels, BLOCK_D, VECTOR, WHOLE)
    parameter = route * channels + channel

    bias = load_parameter(bias_ptr, parameter, own)
    skip = load_parameter(skip_ptr, parameter, own)
    grad_bias = tl.zeros([BLOCK_D], tl.float32)
    grad_skip = tl.zeros([BLOCK_D], tl.float32)
    if RANK > 0:
        weight = load_weight(weight_ptr, parameter, own, RANK, BLOCK_R)
        grad_weight = tl.zeros([BLOCK_D, BLOCK_R], tl.float32)
    decays = ()
    grad_decays = ()
    for n in tl.static_range(STATES):
        decays += (load_parameter(decay_ptr, parameter * STATES + n, own),)
        grad_decays += (tl.zeros([BLOCK_D], tl.float32),)

    WIDTH: tl.constexpr = RANK + 2 * STATES
    begin = segment * segment_steps
    tiles = tl.cdiv(tl.minimum(segment_steps, steps - begin), TILE)
    for image in range(first * group, tl.minimum(first * group + group, batch)):
        sequence = image * routes + route
        flows = ()
        for n in tl.static_range(STATES):
            if SEGMENTED:
                at = ((sequence * segments + segment) * STATES + n) * channels
                flows += (load_parameter(flow_ptr + at, channel, own),)
            else:
                flows += (tl.zeros([BLOCK_D], tl.float32),)
        own_map = sequence * pixels * channels
        x_map = x_ptr + (image if SHARED else sequence) * pixels * channels
        grad_y_map = grad_y_ptr + (image if MERGED else sequence) * pixels * channels
        rows = rows_ptr + (image * pixels * routes + route) * WIDTH
        grad_rows = (
            grad_rows_ptr + ((block * batch + image) * pixels * routes + route) * WIDTH
        )
        saved = saved_ptr + sequence * tl.cdiv(steps, TILE) * STATES * channels
        for index in range(tiles):
            start = begin + (tiles - 1 - index) * TILE
            pixel, inside, live = steps_of(
                routes_ptr + route * steps, start, steps, TILE, EVEN, PADDED, WIDE
            )
            row = pixel * (routes * WIDTH)
            if RANK > 0:
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
            next_flows = ()
            next_grad_decays = ()
            for n in tl.static_range(STATES):
                b = load_column(rows + RANK + n, row, inside)
                c = load_column(rows + RANK + STATES + n, row, inside)
                decay = tl.exp2(dt * (decays[n] * LOG2_E)[None, :])
                entering = scaled * b[:, None]
                factor, h = tl.associative_scan((decay, entering), 0, join)
                at = (start // TILE * STATES + n) * channels
                h += factor * load_parameter(saved + at, channel, own)[None, :]
                ones = tl.full([TILE, BLOCK_D], 1.0, tl.float32)
                _, grad_h, factor = tl.associative_scan(
                    (tl.flip(decay, 0), tl.flip(grad_y * c[:, None], 0), ones), 0, join_back
                )
                grad_h = tl.flip(grad_h + factor * flows[n][None, :], 0)
                next_flows += (row_of(decay * grad_h, 0, TILE),)
                # What is left of the state before, decay * h[t-1], times its gradient.
                kept = grad_h * (h - entering)
                next_grad_decays += (grad_decays[n] + tl.sum(dt * kept, axis=0),)
                grad_dt += kept * decays[n][None, :]
                grad_scaled += grad_h * b[:, None]
                grad_b = tl.sum(grad_h * scaled, axis=1)
                grad_c = tl.sum(grad_y * h, axis=1)
                tl.store(grad_rows + RANK + n + row, grad_b, mask=inside)
                tl.store(grad_rows + RANK + STATES + n + row, grad_c, mask=inside)
            flows = next_flows
            grad_decays = next_grad_decays
            grad_raw = (grad_dt + grad_scaled * x) * slope
            grad_x = grad_scaled * dt + grad_y * skip[None, :]
            grad_bias += tl.sum(grad_raw, axis=0)
            grad_skip += tl.sum(grad_y * x, axis=0)
            store_map(grad_x_ptr + own_map, grad_x, pixel, inside, channel, own, channels)
            if RANK > 0:
                grad_low = tl.dot(grad_raw, weight, input_precision=PRECISION)
                rank = tl.arange(0, BLOCK_R)
                mask = inside[:, None] & (rank < RANK)[None, :]
                tl.store(grad_rows + row[:, None] + rank[None, :], grad_low, mask=mask)
                grad_weight += tl.dot(tl.trans(grad_raw), low, input_precision=PRECISION)
            else:
                store_map(grad_delta_ptr + own_map, grad_raw, pixel, inside, channel, own, channels)

    parameter += (first * segments + segment) * routes * channels
    tl.store(grad_bias_ptr + parameter, grad_bias, mask=own)
    tl.store(grad_skip_ptr + parameter, grad_skip, mask=own)
    for n in tl.static_range(STATES):
        tl.store(grad_decay_ptr + parameter * STATES + n, grad_decays[n], mask=own)
    if RANK > 0:
        rank = tl.arange(0, BLOCK_R)
        at = (parameter * RANK)[:, None] + rank[None, :]
        tl.store(grad_weight_ptr + at, grad_weight, mask=own[:, None] & (rank < RANK)[None, :])
