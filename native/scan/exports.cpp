// The exported functions of the scan.
#include "common/dispatch.h"
#include "scan/partition.h"
#include "scan/scan.h"

QMAMBA_DECLARE(forward, const qmamba_scan*, Partition, qmamba_parallel_for)
QMAMBA_DECLARE(backward, const qmamba_scan*, Partition, qmamba_parallel_for)

QMAMBA_EXPORT int64_t qmamba_segment() { return kSegment; }

// Bytes of `workspace` that a call with these sizes needs.
QMAMBA_EXPORT int64_t qmamba_workspace(const qmamba_scan* scan, int32_t threads, int32_t backward) {
  const Partition cut = choose_partition(*scan, threads, !backward && scan->merged);
  const bool sums_routes = backward ? scan->shared : scan->merged;
  const int64_t sums = sums_routes ? scan->batch * cut.route_splits * scan->padded * scan->pixels : 0;
  const int64_t row = scan->routes * (scan->rank + 2 * scan->states);
  const int64_t rows = backward && cut.groups > 1 ? scan->batch * cut.groups * scan->pixels * row : 0;
  return 4 * (sums + rows) + 64;
}

// `torch_pool` is libtorch's parallel loop or null; `lanes` chooses the variant and must not exceed
// qmamba_lanes().
QMAMBA_EXPORT void qmamba_forward(const qmamba_scan* scan, qmamba_parallel_for torch_pool,
                                  int32_t threads, int32_t lanes) {
  const qmamba_parallel_for parallel_for = qmamba_threads(torch_pool, threads);
  const Partition cut = choose_partition(*scan, threads, scan->merged);
  QMAMBA_CHOOSE(forward, scan, cut, parallel_for)
}

QMAMBA_EXPORT void qmamba_backward(const qmamba_scan* scan, qmamba_parallel_for torch_pool,
                                   int32_t threads, int32_t lanes) {
  const qmamba_parallel_for parallel_for = qmamba_threads(torch_pool, threads);
  const Partition cut = choose_partition(*scan, threads, false);
  QMAMBA_CHOOSE(backward, scan, cut, parallel_for)
}
