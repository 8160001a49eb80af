// The exported functions of rounding: the choice of the instruction set, threads, and the last sums.
#include "rounding.h"

#include <algorithm>
#include <cmath>
#include <vector>

#define QMAMBA_EXPORT extern "C" __attribute__((visibility("default")))

extern "C" {
typedef void (*rounding_block)(const qmamba_rounding*, int32_t, int64_t, int64_t);
void qmamba_rounding_block_base(const qmamba_rounding*, int32_t, int64_t, int64_t);
#if defined(QMAMBA_X86)
void qmamba_rounding_block_v3(const qmamba_rounding*, int32_t, int64_t, int64_t);
void qmamba_rounding_block_v4(const qmamba_rounding*, int32_t, int64_t, int64_t);
#endif
}

namespace {

rounding_block choose(int32_t lanes) {
#if defined(QMAMBA_X86)
  if (lanes >= 16) return qmamba_rounding_block_v4;
  if (lanes >= 8) return qmamba_rounding_block_v3;
#endif
  (void)lanes;
  return qmamba_rounding_block_base;
}

int64_t blocks_of(const qmamba_rounding& call) {
  return (call.count + kRoundingBlock - 1) / kRoundingBlock;
}

struct Task {
  const qmamba_rounding* call;
  rounding_block run;
  int32_t pass;
};

void body(int64_t begin, int64_t end, void* context) {
  const Task& task = *(const Task*)context;
  const int64_t blocks = blocks_of(*task.call);
  for (int64_t i = begin; i < end; i++) task.run(task.call, task.pass, i / blocks, i % blocks);
}

void run_pass(const qmamba_rounding& call, int32_t pass, qmamba_parallel_for pool, int32_t lanes) {
  Task task{&call, choose(lanes), pass};
  const int64_t blocks = call.rows * blocks_of(call);
  if (pool && blocks > 1)
    pool(0, blocks, 1, body, &task);
  else
    body(0, blocks, &task);
}

// The sum over the blocks of a row of one of the four partial results.
double total(const qmamba_rounding& call, int64_t row, int which) {
  const int64_t blocks = blocks_of(call);
  double sum = 0;
  for (int64_t b = 0; b < blocks; b++) sum += call.partial[(row * blocks + b) * 4 + which];
  return sum;
}

}  // namespace

// Fills `sums` with the statistics of each row.
QMAMBA_EXPORT void qmamba_row_statistics(const qmamba_rounding* call, qmamba_parallel_for pool,
                                         int32_t lanes) {
  const int64_t blocks = blocks_of(*call);
  run_pass(*call, kExtremes, pool, lanes);
  for (int64_t row = 0; row < call->rows; row++) {
    const double* partial = call->partial + row * blocks * 4;
    double low = partial[1], high = partial[2];
    for (int64_t b = 1; b < blocks; b++) {
      low = partial[b * 4 + 1] < low ? partial[b * 4 + 1] : low;
      high = partial[b * 4 + 2] > high ? partial[b * 4 + 2] : high;
    }
    float* sums = call->sums + row * 6;
    sums[0] = float(total(*call, row, 0) / double(call->count));
    sums[2] = float(low);
    sums[3] = float(high);
  }
  run_pass(*call, kDeviations, pool, lanes);
  for (int64_t row = 0; row < call->rows; row++) {
    float* sums = call->sums + row * 6;
    sums[1] = float(total(*call, row, 0));
    sums[4] = float(total(*call, row, 1));
    sums[5] = float(total(*call, row, 2));
  }
}

QMAMBA_EXPORT void qmamba_round_rows(const qmamba_rounding* call, qmamba_parallel_for pool,
                                     int32_t lanes) {
  run_pass(*call, kRound, pool, lanes);
}

// Fills `result` with the gradient of x and `sums` with those of the grid.
QMAMBA_EXPORT void qmamba_round_rows_backward(const qmamba_rounding* call, qmamba_parallel_for pool,
                                              int32_t lanes) {
  run_pass(*call, kRoundBackward, pool, lanes);
  for (int64_t row = 0; row < call->rows; row++)
    for (int which = 0; which < 4; which++)
      call->sums[row * 4 + which] = float(total(*call, row, which));
}

// Adds slope * x + shift to `result`, and to values that attain an extreme what belongs to it.
QMAMBA_EXPORT void qmamba_add_statistics_gradient(const qmamba_rounding* call,
                                                  qmamba_parallel_for pool, int32_t lanes) {
  run_pass(*call, kAddStatistics, pool, lanes);
}

namespace {

// What belongs to a row of DLS, in double.
struct DynamicRow {
  double moments[4], shifted[4], offset, signed_step, least, most;

  DynamicRow(const qmamba_dynamic& call, int64_t row) {
    for (int k = 0; k < 4; k++) moments[k] = call.state[k * call.rows + row];
    offset = 0;
    for (int k = 0; k < 4; k++) offset += double(call.offset_weights[k]) * moments[k];
    const double mean = moments[0] + offset;
    shifted[0] = std::fabs(mean);
    shifted[1] = moments[1];
    shifted[2] = moments[2] + offset;
    shifted[3] = moments[3] + offset;
    signed_step = 0;
    for (int k = 0; k < 4; k++) signed_step += double(call.step_weights[k]) * shifted[k];
    const double levels = double(call.high) - double(call.low) + 1;
    most = std::max((moments[3] - moments[2]) / levels, double(call.tiny));
    least = std::max(most * double(call.narrowest), double(call.tiny));
  }

  double step() const { return std::min(std::max(std::fabs(signed_step), least), most); }
  static double sign(double v) { return double(v > 0) - double(v < 0); }
};

qmamba_rounding rounding_of(const qmamba_dynamic& call) {
  qmamba_rounding rounding{};
  rounding.x = call.x;
  rounding.grad = call.grad;
  rounding.result = call.result;
  rounding.scale = call.state + kScale * call.rows;
  rounding.offset = call.state + kOffset * call.rows;
  rounding.lowest = call.state + 2 * call.rows;
  rounding.highest = call.state + 3 * call.rows;
  rounding.partial = call.partial;
  rounding.rows = call.rows;
  rounding.count = call.count;
  rounding.low = call.low;
  rounding.high = call.high;
  return rounding;
}

}  // namespace

// Fills `state` and, where there is one, `result`.
QMAMBA_EXPORT void qmamba_dynamic_round(const qmamba_dynamic* call, qmamba_parallel_for pool,
                                        int32_t lanes) {
  qmamba_rounding rounding = rounding_of(*call);
  std::vector<float> statistics(call->rows * 6);
  rounding.sums = statistics.data();
  qmamba_row_statistics(&rounding, pool, lanes);
  const double spread = std::max<double>(double(call->count) * double(call->copies) - 1, 1);
  for (int64_t row = 0; row < call->rows; row++) {
    float* found = statistics.data() + row * 6;
    found[1] = float(std::sqrt(double(found[1]) * double(call->copies) / spread));
    for (int k = 0; k < 6; k++) call->state[k * call->rows + row] = found[k];
    const DynamicRow grid(*call, row);
    call->state[kScale * call->rows + row] = float(grid.step());
    call->state[kOffset * call->rows + row] = float(grid.offset);
    call->state[kShiftedMean * call->rows + row] = float(grid.moments[0] + grid.offset);
    call->state[kSignedStep * call->rows + row] = float(grid.signed_step);
  }
  if (call->result) qmamba_round_rows(&rounding, pool, lanes);
}

// Fills `result` with the gradient of x and `weight_grads`.
QMAMBA_EXPORT void qmamba_dynamic_round_backward(const qmamba_dynamic* call,
                                                 qmamba_parallel_for pool, int32_t lanes) {
  const int64_t rows = call->rows;
  qmamba_rounding rounding = rounding_of(*call);
  std::vector<float> sums(rows * 4), passed(rows * 4);
  rounding.sums = sums.data();
  qmamba_round_rows_backward(&rounding, pool, lanes);
  double weights[8] = {};
  const double count = double(call->count), copies = double(call->copies);
  const double spread = std::max(count * copies - 1, 1.0) / copies;
  for (int64_t row = 0; row < rows; row++) {
    const DynamicRow grid(*call, row);
    const double length = std::fabs(grid.signed_step), on_scale = sums[row * 4];
    // A limit stops the gradient of the step but not on the way back.
    const bool held = (length < grid.least && on_scale > 0) || (length > grid.most && on_scale < 0);
    const double step =
        held ? 0 : on_scale * DynamicRow::sign(grid.signed_step) * double(call->gradient_scale);
    double on[4];
    for (int k = 0; k < 4; k++) {
      weights[k] += step * grid.shifted[k];
      on[k] = step * double(call->step_weights[k]);
    }
    on[0] *= DynamicRow::sign(grid.moments[0] + grid.offset);
    const double offset = sums[row * 4 + 1] + on[0] + on[2] + on[3];
    for (int k = 0; k < 4; k++) {
      weights[4 + k] += offset * grid.moments[k];
      on[k] += offset * double(call->offset_weights[k]);
    }
    const double width = grid.moments[1] * spread;
    const double slope = width > 0 ? on[1] / width : 0;
    passed[row] = float(slope);
    passed[rows + row] = float(on[0] / count - slope * grid.moments[0]);
    passed[2 * rows + row] = float((on[2] + sums[row * 4 + 2]) / call->state[4 * rows + row]);
    passed[3 * rows + row] = float((on[3] + sums[row * 4 + 3]) / call->state[5 * rows + row]);
  }
  for (int k = 0; k < 8; k++) call->weight_grads[k] = float(weights[k]);
  rounding.slope = passed.data();
  rounding.shift = passed.data() + rows;
  rounding.at_lowest = passed.data() + 2 * rows;
  rounding.at_highest = passed.data() + 3 * rows;
  qmamba_add_statistics_gradient(&rounding, pool, lanes);
}

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

QMAMBA_EXPORT void qmamba_threshold_round(const qmamba_thresholds* call) {
  const std::vector<float> middles = boundaries(*call);
  for (int64_t i = 0; i < call->count; i++) {
    const float v = within((call->x[i] + call->offset) / call->step, call->low, call->high);
    const float level = float(below(middles.data(), call->levels - 1, v)) + call->first_level;
    call->result[i] = v == v ? level * call->step - call->offset : v;
  }
}

QMAMBA_EXPORT void qmamba_threshold_round_backward(const qmamba_thresholds* call) {
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
