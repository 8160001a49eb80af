// The exported functions of networks on quantized operands.
#include "common/dispatch.h"
#include "quantized/quantized.h"
#include "scan/partition.h"

QMAMBA_RUN(operand)
QMAMBA_RUN(scan_operands)
QMAMBA_RUN(depthwise)

QMAMBA_DECLARE(quantized_scan, const qmamba_quantized_scan*, Partition, qmamba_parallel_for)

// Numbers of `tables` that a call with these sizes needs.
QMAMBA_EXPORT int64_t qmamba_quantized_floats(const qmamba_quantized_scan* call) {
  const qmamba_scan& scan = call->scan;
  const int64_t rows = 2 + scan.rank + scan.states;
  return qmamba_table_numbers(*call) + (rows * scan.routes + 1) * scan.padded;
}

QMAMBA_EXPORT void qmamba_run_quantized_scan(const qmamba_quantized_scan* call,
                                             qmamba_parallel_for torch_pool, int32_t threads,
                                             int32_t lanes) {
  const qmamba_parallel_for parallel_for = qmamba_threads(torch_pool, threads);
  const Partition cut = choose_partition(call->scan, threads, call->scan.merged);
  QMAMBA_CHOOSE(quantized_scan, call, cut, parallel_for)
}
