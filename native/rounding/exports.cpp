// The exported functions of rounding: threads, and the sums over blocks.
#include "common/dispatch.h"
#include "common/parallel.h"
#include "rounding/passes.h"

QMAMBA_DECLARE(rounding_block, const qmamba_rounding*, int32_t, int64_t, int64_t)

namespace {

int64_t blocks_of(const qmamba_rounding& call) {
  return (call.count + kRoundingBlock - 1) / kRoundingBlock;
}

void run_pass(const qmamba_rounding& call, int32_t pass, qmamba_parallel_for torch_pool,
              int32_t threads, int32_t lanes) {
  const int64_t blocks = blocks_of(call);
  run_each(qmamba_threads(torch_pool, threads), call.rows * blocks, [&](int64_t i) {
    QMAMBA_CHOOSE(rounding_block, &call, pass, i / blocks, i % blocks)
  });
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
QMAMBA_EXPORT void qmamba_row_statistics(const qmamba_rounding* call,
                                         qmamba_parallel_for torch_pool, int32_t threads,
                                         int32_t lanes) {
  const int64_t blocks = blocks_of(*call);
  run_pass(*call, kExtremes, torch_pool, threads, lanes);
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
  run_pass(*call, kDeviations, torch_pool, threads, lanes);
  for (int64_t row = 0; row < call->rows; row++) {
    float* sums = call->sums + row * 6;
    sums[1] = float(total(*call, row, 0));
    sums[4] = float(total(*call, row, 1));
    sums[5] = float(total(*call, row, 2));
  }
}

QMAMBA_EXPORT void qmamba_round_rows(const qmamba_rounding* call,
                                     qmamba_parallel_for torch_pool, int32_t threads,
                                     int32_t lanes) {
  run_pass(*call, kRound, torch_pool, threads, lanes);
}

// Fills `result` with the gradient of x and `sums` with those of the grid.
QMAMBA_EXPORT void qmamba_round_rows_backward(const qmamba_rounding* call,
                                              qmamba_parallel_for torch_pool, int32_t threads,
                                              int32_t lanes) {
  run_pass(*call, kRoundBackward, torch_pool, threads, lanes);
  for (int64_t row = 0; row < call->rows; row++)
    for (int which = 0; which < 4; which++)
      call->sums[row * 4 + which] = float(total(*call, row, which));
}

// Adds slope * x + shift to `result`, and to values that attain an extreme what belongs to it.
QMAMBA_EXPORT void qmamba_add_statistics_gradient(const qmamba_rounding* call,
                                                  qmamba_parallel_for torch_pool, int32_t threads,
                                                  int32_t lanes) {
  run_pass(*call, kAddStatistics, torch_pool, threads, lanes);
}
