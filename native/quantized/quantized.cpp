// Networks on quantized operands, for one instruction set.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "common/parallel.h"
#include "common/variant.h"
#include "quantized/quantized.h"
#include "scan/partition.h"

namespace QMAMBA_JOIN(qmamba_quantized_, QMAMBA_VARIANT) {

#include "common/simd.inc"
#include "common/lanes.inc"
#include "common/codes.inc"
#include "common/activation.inc"
#include "common/scratch.inc"
#include "scan/forward.inc"
#include "quantized/operands.inc"
#include "quantized/delta.inc"
#include "quantized/scan_operands.inc"
#include "quantized/lookup_scan.inc"
#include "quantized/computed_scan.inc"
#include "quantized/scan_finish.inc"
#include "quantized/depthwise.inc"

static void operand(const qmamba_operand& call, qmamba_parallel_for parallel_for) {
  const int64_t tasks = call.images * kParts;
  if (call.rule.weights) {
    run_each(parallel_for, tasks, [&](int64_t i) { operand_moments(call, i / kParts, i % kParts); });
    for (int64_t image = 0; image < call.images; image++)
      call.rule.qparams[image] =
          dynamic_qparams(call.partial + image * kParts * 4, (double)call.rows * (double)call.count,
                       call.x[image * call.image_stride], call.rule);
  }
  if (call.values || call.codes)
    run_each(parallel_for, tasks, [&](int64_t i) { quantize_operand(call, i / kParts, i % kParts); });
}

static void scan_operands(const qmamba_scan_operands& call, qmamba_parallel_for parallel_for) {
  const int64_t columns = call.rank + 2 * call.states, pixels = call.pixels;
  read_constant(call.dt_weight, call.routes * call.rank * call.padded, call.weights);
  std::unique_ptr<float[]> pivots(new float[4 * call.batch]), low(new float[call.rank + W]);
  for (int64_t image = 0; image < call.batch; image++) {
    const float* numbers = call.projected + image * pixels * call.routes * columns;
    const Quantizer quantizer(call.low, image);
    for (int64_t r = 0; r < call.rank; r++) low[r] = quantizer.fake_quantize(broadcast(numbers[r]))[0];
    float* pivot = pivots.get() + 4 * image;
    pivot[QMAMBA_X] = call.x[image * pixels * call.channels];
    pivot[QMAMBA_DELTA] = first_delta(low.get(), call.weights, call.rank, call.padded);
    pivot[QMAMBA_B] = numbers[call.rank];
    pivot[QMAMBA_C] = numbers[call.rank + call.states];
  }
  run_each(parallel_for, call.batch * kParts, [&](int64_t i) {
    scan_moments(call, i / kParts, i % kParts, pivots.get() + i / kParts * 4);
  });
  const double maps = (double)pixels * (double)call.routes;
  const double counts[] = {(double)pixels * call.channels, maps * call.channels, maps * call.states,
                           maps * call.states};
  for (int which = 0; which < 4; which++)
    for (int64_t image = 0; image < call.batch && call.operands[which].weights; image++)
      call.operands[which].qparams[image] =
          dynamic_qparams(call.partial + (which * call.batch + image) * kParts * 4, counts[which],
                       pivots[4 * image + which], call.operands[which]);
  run_each(parallel_for, call.batch * kParts,
           [&](int64_t i) { fake_quantize_operands(call, i / kParts, i % kParts); });
}

// What a scan reads of its constants, behind the tables: the weights and the bias of delta, the
// skip terms summed over the routes, and the decays.
static void read_constants(qmamba_quantized_scan& call) {
  qmamba_scan& scan = call.scan;
  const int64_t padded = scan.padded, size = scan.routes * padded;
  float* bias = call.tables + qmamba_table_numbers(call);
  float *skips = bias + size, *sum = skips + size, *weights = sum + padded;
  read_constant(call.dt_weight, size * scan.rank, weights);
  read_constant(call.dt_bias, size, bias);
  read_constant(call.skip, size, skips);
  for (int64_t channel = 0; channel < padded; channel++) {
    sum[channel] = 0;
    for (int64_t route = 0; route < scan.routes && channel < scan.channels; route++)
      sum[channel] += skips[route * padded + channel];
  }
  float* decay = weights + size * scan.rank;
  read_constant(call.decay, size * scan.states, decay);
  for (int64_t row = 0; row < scan.routes * scan.states; row++)
    for (int64_t channel = 0; channel < padded; channel++)
      decay[row * padded + channel] *= channel < scan.channels ? 1.4426950408889634f : 0;
  scan.decay = decay;
  scan.dt_weight = weights;
  scan.dt_bias = bias;
  scan.skip = scan.merged ? sum : skips;
}

// Adds up the routes of all images, and takes the parameters of the result where they are asked for.
static void finish(const qmamba_quantized_scan& call, Partition cut, qmamba_parallel_for parallel_for) {
  const qmamba_scan& scan = call.scan;
  std::unique_ptr<float[]> pivots(new float[scan.batch]);
  if (call.output.weights) {
    std::unique_ptr<float[]> sums(new float[kRows * scan.padded]);
    for (int64_t image = 0; image < scan.batch; image++)
      pivots[image] = first_result(call, cut, image, sums.get());
  }
  run_each(parallel_for, scan.batch * kParts, [&](int64_t i) {
    const int64_t image = i / kParts, part = i % kParts, first = image * scan.pixels;
    const int64_t end = first + scan.pixels * (part + 1) / kParts;
    std::unique_ptr<float[]> sums(new float[kRows * scan.padded]);
    Moments moments(call.output.weights ? pivots[image] : 0);
    for (int64_t row = first + scan.pixels * part / kParts; row < end; row += kRows)
      finish_rows(call, cut, row, std::min(kRows, end - row), sums.get(), moments);
    if (call.output.weights) moments.finish(call.partial + i * 4);
  });
  for (int64_t image = 0; image < scan.batch && call.output.weights; image++)
    call.output.qparams[image] =
        dynamic_qparams(call.partial + image * kParts * 4, (double)scan.pixels * scan.channels,
                     pivots[image], call.output);
}

static void quantized_scan(const qmamba_quantized_scan& given, Partition cut,
                           qmamba_parallel_for parallel_for) {
  qmamba_quantized_scan call = given;
  read_constants(call);
  const qmamba_scan& scan = call.scan;
  const int64_t tiles = scan.padded / 16;
  const int64_t tables = call.looked_up ? scan.batch * scan.routes * tiles : 0;
  run_each(parallel_for, tables, [&](int64_t i) {
    fill_tables(call, i / tiles / scan.routes, i / tiles % scan.routes, i % tiles * 16);
  });
  run_each(parallel_for, tasks_of(scan, cut), [&](int64_t i) {
    const Task task(scan, cut, i);
    if (call.looked_up) lookup_task(call, task);
    else computed_task(call, task);
  });
  if (scan.merged) finish(call, cut, parallel_for);
}

static void depthwise(const qmamba_depthwise& call, qmamba_parallel_for parallel_for) {
  const int64_t reach = call.side / 2 * call.dilation;
  const int64_t size = (2 * reach + 1) * (call.width + 2 * reach) * W;
  read_constant(call.weight, call.side * call.side * call.padded, call.weights);
  // The rows that a part shares with the next one are quantized twice.
  const int64_t most = call.height / std::max<int64_t>(1, 6 * reach);
  const int64_t parts = std::min(kParts, std::max<int64_t>(1, most));
  run_each(parallel_for, call.batch * parts, [&](int64_t i) {
    std::unique_ptr<float[]> ring(new float[size]);
    if (call.side == 3) depthwise_part<3>(call, i / parts, i % parts, parts, ring.get());
    else depthwise_part<0>(call, i / parts, i % parts, parts, ring.get());
  });
}

}  // namespace

QMAMBA_EXPORT_PASS(quantized, operand)
QMAMBA_EXPORT_PASS(quantized, scan_operands)
QMAMBA_EXPORT_PASS(quantized, depthwise)

extern "C" void QMAMBA_JOIN(qmamba_quantized_scan_, QMAMBA_VARIANT)(
    const qmamba_quantized_scan* call, Partition cut, qmamba_parallel_for parallel_for) {
  QMAMBA_JOIN(qmamba_quantized_, QMAMBA_VARIANT)::quantized_scan(*call, cut, parallel_for);
}
