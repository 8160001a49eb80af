// One block of a row for each pass, for one instruction set.
#include <algorithm>
#include <cstdint>
#include <utility>

#include "common/variant.h"
#include "rounding/rounding.h"

namespace QMAMBA_JOIN(qmamba_rounding_, QMAMBA_VARIANT) {

#include "common/simd.inc"
#include "common/lanes.inc"

// Floats are added up in vectors for this many values and then in double.
constexpr int64_t kRun = 1024;

QMAMBA_INLINE vfloat keep_if(vint mask, vfloat v) { return (vfloat)(mask & (vint)v); }

void extremes(const float* x, int64_t count, double* out) {
  double sum = 0;
  vfloat lows = broadcast(x[0]), highs = lows;
  int64_t i = 0;
  while (i + W <= count) {
    const int64_t end = i + kRun < count ? i + kRun : count;
    vfloat total = {};
    for (; i + W <= end; i += W) {
      const vfloat v = load(x + i);
      total += v;
      lows = least(v, lows);
      highs = greatest(v, highs);
    }
    sum += sum_lanes(total);
  }
  float low = lows[0], high = highs[0];
  for (int k = 1; k < W; k++) {
    low = lows[k] < low ? lows[k] : low;
    high = highs[k] > high ? highs[k] : high;
  }
  for (; i < count; i++) {
    sum += x[i];
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  out[0] = sum;
  out[1] = low;
  out[2] = high;
}

void deviations(const float* x, int64_t count, const float* known, double* out) {
  const float mean = known[0], lowest = known[2], highest = known[3];
  const vfloat one = broadcast(1.0f);
  double power = 0, at_lowest = 0, at_highest = 0;
  int64_t i = 0;
  while (i + W <= count) {
    const int64_t end = i + kRun < count ? i + kRun : count;
    vfloat squares = {}, lows = {}, highs = {};
    for (; i + W <= end; i += W) {
      const vfloat v = load(x + i), away = v - mean;
      squares += away * away;
      lows += keep_if(v == lowest, one);
      highs += keep_if(v == highest, one);
    }
    power += sum_lanes(squares);
    at_lowest += sum_lanes(lows);
    at_highest += sum_lanes(highs);
  }
  for (; i < count; i++) {
    power += double(x[i] - mean) * (x[i] - mean);
    at_lowest += x[i] == lowest;
    at_highest += x[i] == highest;
  }
  out[0] = power;
  out[1] = at_lowest;
  out[2] = at_highest;
}

struct RowQParams {
  vfloat scale, offset, low, high, lowest, highest;
  bool bounded;

  RowQParams(const qmamba_rounding& call, int64_t row)
      : scale(broadcast(call.scale[row])),
        offset(broadcast(call.offset[row])),
        low(broadcast(call.low)),
        high(broadcast(call.high)),
        lowest(broadcast(call.lowest ? call.lowest[row] : 0)),
        highest(broadcast(call.highest ? call.highest[row] : 0)),
        bounded(call.lowest) {}

  vfloat clamped(vfloat v) const { return least(high, greatest(low, v)); }
};

void round_block(const qmamba_rounding& call, int64_t row, int64_t begin, int64_t count) {
  const RowQParams grid(call, row);
  const float* x = call.x + begin;
  float* y = call.result + begin;
  for (int64_t i = 0; i < count; i += W) {
    const int part = int(count - i < W ? count - i : W);
    const vfloat ratio = (load_part(x + i, part) + grid.offset) / grid.scale;
    vfloat v = nearest(grid.clamped(ratio)) * grid.scale - grid.offset;
    if (grid.bounded) v = least(grid.highest, greatest(grid.lowest, v));
    store_part(y + i, v, part);
  }
}

void round_backward_block(const qmamba_rounding& call, int64_t row, int64_t begin, int64_t count,
                          double* out) {
  const RowQParams grid(call, row);
  const float *x = call.x + begin, *grad = call.grad + begin;
  float* result = call.result + begin;
  double step = 0, offset = 0, lowest = 0, highest = 0;
  for (int64_t start = 0; start < count; start += kRun) {
    const int64_t end = start + kRun < count ? start + kRun : count;
    vfloat on_step = {}, on_offset = {}, on_lowest = {}, on_highest = {};
    for (int64_t i = start; i < end; i += W) {
      const int part = int(end - i < W ? end - i : W);
      // Lanes beyond the end have no gradient and add nothing.
      vfloat g = load_part(grad + i, part);
      const vfloat ratio = (load_part(x + i, part) + grid.offset) / grid.scale;
      const vfloat clamped = grid.clamped(ratio);
      const vint inside = clamped == ratio;
      const vfloat code = nearest(clamped);
      if (grid.bounded) {
        const vfloat y = code * grid.scale - grid.offset;
        const vint below = y < grid.lowest, above = y > grid.highest;
        on_lowest += keep_if(below, g);
        on_highest += keep_if(above, g);
        g = keep_if(~(below | above), g);
      }
      const vfloat passed = keep_if(inside, g);
      on_step += g * code - keep_if(inside, g * ratio);
      on_offset += passed - g;
      store_part(result + i, passed, part);
    }
    step += sum_lanes(on_step);
    offset += sum_lanes(on_offset);
    lowest += sum_lanes(on_lowest);
    highest += sum_lanes(on_highest);
  }
  out[0] = step;
  out[1] = offset;
  out[2] = lowest;
  out[3] = highest;
}

void add_statistics_block(const qmamba_rounding& call, int64_t row, int64_t begin, int64_t count) {
  const vfloat slope = broadcast(call.slope[row]), shift = broadcast(call.shift[row]);
  const vfloat lowest = broadcast(call.lowest[row]), highest = broadcast(call.highest[row]);
  const vfloat at_lowest = broadcast(call.at_lowest[row]);
  const vfloat at_highest = broadcast(call.at_highest[row]);
  const float* x = call.x + begin;
  float* result = call.result + begin;
  for (int64_t i = 0; i < count; i += W) {
    const int part = int(count - i < W ? count - i : W);
    const vfloat v = load_part(x + i, part);
    vfloat total = load_part(result + i, part) + (v * slope + shift);
    total += keep_if(v == lowest, at_lowest);
    total += keep_if(v == highest, at_highest);
    store_part(result + i, total, part);
  }
}

}  // namespace QMAMBA_JOIN(qmamba_rounding_, QMAMBA_VARIANT)

#define QMAMBA_IN QMAMBA_JOIN(qmamba_rounding_, QMAMBA_VARIANT)

// Block `block` of row `row` of a pass.
extern "C" void QMAMBA_JOIN(qmamba_rounding_block_, QMAMBA_VARIANT)(const qmamba_rounding* call,
                                                                    int32_t pass, int64_t row,
                                                                    int64_t block) {
  const int64_t blocks = (call->count + kRoundingBlock - 1) / kRoundingBlock;
  const int64_t inside = block * kRoundingBlock, begin = row * call->count + inside;
  const int64_t count = call->count - inside < kRoundingBlock ? call->count - inside : kRoundingBlock;
  double* partial = call->partial + (row * blocks + block) * 4;
  switch (pass) {
    case kExtremes:
      return QMAMBA_IN::extremes(call->x + begin, count, partial);
    case kDeviations:
      return QMAMBA_IN::deviations(call->x + begin, count, call->sums + row * 6, partial);
    case kRound:
      return QMAMBA_IN::round_block(*call, row, begin, count);
    case kRoundBackward:
      return QMAMBA_IN::round_backward_block(*call, row, begin, count, partial);
    default:
      return QMAMBA_IN::add_statistics_block(*call, row, begin, count);
  }
}
