// DLS: rows on the grid of their own statistics, forward and backward.
#include <algorithm>
#include <cmath>
#include <vector>

#include "rounding/passes.h"

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
QMAMBA_EXPORT void qmamba_dynamic_round(const qmamba_dynamic* call,
                                        qmamba_parallel_for torch_pool, int32_t threads,
                                        int32_t lanes) {
  qmamba_rounding rounding = rounding_of(*call);
  std::vector<float> statistics(call->rows * 6);
  rounding.sums = statistics.data();
  qmamba_row_statistics(&rounding, torch_pool, threads, lanes);
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
  if (call->result) qmamba_round_rows(&rounding, torch_pool, threads, lanes);
}

// Fills `result` with the gradient of x and `weight_grads`.
QMAMBA_EXPORT void qmamba_dynamic_round_backward(const qmamba_dynamic* call,
                                                 qmamba_parallel_for torch_pool, int32_t threads,
                                                 int32_t lanes) {
  const int64_t rows = call->rows;
  qmamba_rounding rounding = rounding_of(*call);
  std::vector<float> sums(rows * 4), passed(rows * 4);
  rounding.sums = sums.data();
  qmamba_round_rows_backward(&rounding, torch_pool, threads, lanes);
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
  qmamba_add_statistics_gradient(&rounding, torch_pool, threads, lanes);
}
