// RFA: one row, codes by learned thresholds, forward and backward.
#include <algorithm>
#include <vector>

#include "common/dispatch.h"
#include "rounding/rounding.h"

namespace {

// How many of ascending `values` are below v.
int64_t below(const float* values, int64_t count, float v) {
  const float* base = values;
  while (count > 1) {
    const int64_t half = count / 2;
    base += base[half - 1] < v ? half : 0;
    count -= half;
  }
  return base - values + (*base < v);
}

// Where the codes change. Of points out of order, the last boundary below a value counts.
std::vector<float> boundaries(const qmamba_thresholds& call) {
  std::vector<float> middles(call.levels - 1);
  for (int64_t i = 0; i + 1 < call.levels; i++)
    middles[i] = (call.points[i] + call.points[i + 1]) / 2;
  for (int64_t i = call.levels - 3; i >= 0; i--) middles[i] = std::min(middles[i], middles[i + 1]);
  return middles;
}

float within(float v, float low, float high) { return v < low ? low : v > high ? high : v; }

}  // namespace

QMAMBA_EXPORT void qmamba_threshold_round(const qmamba_thresholds* call, qmamba_parallel_for, int32_t,
                                          int32_t) {
  const std::vector<float> middles = boundaries(*call);
  for (int64_t i = 0; i < call->count; i++) {
    const float v = within((call->x[i] + call->offset) / call->step, call->low, call->high);
    const float level = float(below(middles.data(), call->levels - 1, v)) + call->first_level;
    call->result[i] = v == v ? level * call->step - call->offset : v;
  }
}

QMAMBA_EXPORT void qmamba_threshold_round_backward(const qmamba_thresholds* call, qmamba_parallel_for, int32_t,
                                                   int32_t) {
  const std::vector<float> middles = boundaries(*call);
  const int64_t levels = call->levels;
  // Segment 0 lies below the first point, segment `levels` above the last.
  std::vector<float> slopes(levels + 1, call->end_slope);
  for (int64_t i = 1; i < levels; i++) slopes[i] = 1 / (call->points[i] - call->points[i - 1]);
  std::vector<double> total(levels + 1), moment(levels + 1), points(levels);
  double step = 0, offset = 0;
  for (int64_t i = 0; i < call->count; i++) {
    const float ratio = (call->x[i] + call->offset) / call->step, grad = call->grad[i];
    const float v = within(ratio, call->low, call->high);
    const float level = float(below(middles.data(), levels - 1, v)) + call->first_level;
    const int64_t segment = below(call->points, levels, v);
    const float passed = v == ratio ? slopes[segment] * grad : 0;
    call->result[i] = passed;
    step += double(grad) * level - double(passed) * ratio;
    offset += double(passed) - grad;
    total[segment] += grad;
    moment[segment] += double(grad) * v;
  }
  for (int64_t i = 1; i < levels; i++) {
    const double gap = double(call->points[i]) - call->points[i - 1];
    const double share = (moment[i] - call->points[i - 1] * total[i]) / gap;
    points[i] -= share / gap;
    points[i - 1] -= (total[i] - share) / gap;
  }
  points[0] -= call->end_slope * total[0];
  points[levels - 1] -= call->end_slope * total[levels];
  call->sums[0] = float(step);
  call->sums[1] = float(offset);
  for (int64_t i = 0; i < levels; i++) call->sums[2 + i] = float(points[i] * call->step);
}
