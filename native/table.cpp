// Networks on quantised operands, for one instruction set.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "table.h"
#include "variant.h"

namespace QMAMBA_JOIN(qmamba_table_, QMAMBA_VARIANT) {

#include "simd.h"
#include "forward.h"
#include "operands.h"
#include "table_steps.h"
#include "table_scan.h"
#include "depthwise.h"

template <class Body>
static void run(qmamba_parallel_for parallel_for, int64_t count, int64_t grain, const Body& body) {
  auto range = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) body(i);
  };
  using Range = decltype(range);
  parallel_for(
      0, count, grain,
      [](int64_t begin, int64_t end, void* context) { (*(Range*)context)(begin, end); }, &range);
}

static void operand(const qmamba_operand& call, qmamba_parallel_for parallel_for) {
  const int64_t tasks = call.images * kParts;
  if (call.rule.weights) {
    run(parallel_for, tasks, 1, [&](int64_t i) { operand_moments(call, i / kParts, i % kParts); });
    for (int64_t image = 0; image < call.images; image++)
      call.rule.grids[image] =
          dynamic_grid(call.partial + image * kParts * 4, (double)call.rows * (double)call.count,
                       call.x[image * call.image_stride], call.rule);
  }
  if (call.values || call.codes)
    run(parallel_for, tasks, 1, [&](int64_t i) { operand_codes(call, i / kParts, i % kParts); });
}

static void steps(const qmamba_steps& call, qmamba_parallel_for parallel_for) {
  const int64_t tasks = call.batch * kParts;
  read_constant(call.dt_weight, call.routes * call.rank * call.padded, call.weights);
  if (call.rule.weights) {
    run(parallel_for, tasks, 1, [&](int64_t i) { step_moments(call, i / kParts, i % kParts); });
    const double count = (double)call.pixels * (double)call.routes * (double)call.channels;
    for (int64_t image = 0; image < call.batch; image++)
      call.rule.grids[image] = dynamic_grid(call.partial + image * kParts * 4, count,
                                            first_step(call, image), call.rule);
  }
  if (call.values || call.codes)
    run(parallel_for, tasks, 1, [&](int64_t i) { step_codes(call, i / kParts, i % kParts); });
}

// The bias of the steps, and the skip terms summed over the routes, behind the tables.
static void read_constants(qmamba_table_scan& call) {
  qmamba_scan& scan = call.scan;
  const int64_t padded = scan.padded;
  float* bias = Tables(call, scan.batch, 0).decays;
  float *skips = bias + scan.routes * padded, *sum = skips + scan.routes * padded;
  read_constant(call.bias, scan.routes * padded, bias);
  read_constant(call.skip, scan.routes * padded, skips);
  for (int64_t channel = 0; channel < padded; channel++) {
    sum[channel] = 0;
    for (int64_t route = 0; route < scan.routes && channel < scan.channels; route++)
      sum[channel] += skips[route * padded + channel];
  }
  scan.dt_bias = bias;
  scan.skip = sum;
}

static void table_scan(const qmamba_table_scan& given, Partition cut,
                       qmamba_parallel_for parallel_for) {
  qmamba_table_scan call = given;
  read_constants(call);
  const qmamba_scan& scan = call.scan;
  const int64_t tiles = scan.padded / 16, tables = scan.batch * scan.routes * tiles;
  run(parallel_for, tables, 1, [&](int64_t i) {
    fill_tables(call, i / tiles / scan.routes, i / tiles % scan.routes, i % tiles * 16);
  });
  run(parallel_for, scan.batch * cut.groups * cut.route_splits, 1, [&](int64_t task) {
    const int64_t split = task % cut.route_splits;
    const Slice slice = slice_of(scan, cut.groups, task / cut.route_splits % cut.groups);
    const int64_t image = task / cut.route_splits / cut.groups;
    table_task(call, image, scan.routes * split / cut.route_splits,
               scan.routes * (split + 1) / cut.route_splits, slice,
               accumulator(scan, image * cut.route_splits + split, slice));
  });
  constexpr int64_t kBand = 8 * kRows;
  const int64_t rows = scan.batch * scan.pixels;
  run(parallel_for, (rows + kBand - 1) / kBand, 1, [&](int64_t band) {
    std::unique_ptr<float[]> sums(new float[kRows * scan.padded]);
    const int64_t end = std::min(rows, (band + 1) * kBand);
    for (int64_t row = band * kBand; row < end; row += kRows)
      finish_rows(call, cut, row, std::min(kRows, end - row), sums.get());
  });
}

static void depthwise(const qmamba_depthwise& call, qmamba_parallel_for parallel_for) {
  const int64_t reach = call.side / 2 * call.dilation;
  const int64_t size = (2 * reach + 1) * (call.width + 2 * reach) * W;
  read_constant(call.weight, call.side * call.side * call.padded, call.weights);
  run(parallel_for, call.batch * kParts, 1, [&](int64_t i) {
    std::unique_ptr<float[]> ring(new float[size]);
    if (call.side == 3) depthwise_part<3>(call, i / kParts, i % kParts, ring.get());
    else depthwise_part<0>(call, i / kParts, i % kParts, ring.get());
  });
}

}  // namespace

#define QMAMBA_TABLE_PASS(pass)                                              \
  extern "C" void QMAMBA_JOIN(qmamba_##pass##_, QMAMBA_VARIANT)(             \
      const qmamba_##pass* call, qmamba_parallel_for parallel_for) {         \
    QMAMBA_JOIN(qmamba_table_, QMAMBA_VARIANT)::pass(*call, parallel_for);   \
  }
QMAMBA_TABLE_PASS(operand)
QMAMBA_TABLE_PASS(steps)
QMAMBA_TABLE_PASS(depthwise)

extern "C" void QMAMBA_JOIN(qmamba_table_scan_, QMAMBA_VARIANT)(const qmamba_table_scan* call,
                                                                Partition cut,
                                                                qmamba_parallel_for parallel_for) {
  QMAMBA_JOIN(qmamba_table_, QMAMBA_VARIANT)::table_scan(*call, cut, parallel_for);
}
