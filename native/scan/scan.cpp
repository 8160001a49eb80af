// The scan for one instruction set. Compiled once per variant with QMAMBA_VARIANT and -march set.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "common/parallel.h"
#include "common/variant.h"
#include "scan/partition.h"

namespace QMAMBA_JOIN(qmamba_, QMAMBA_VARIANT) {

#include "common/simd.inc"
#include "common/lanes.inc"
#include "common/scratch.inc"
#include "scan/forward.inc"
#include "scan/backward.inc"

// The state counts of VMamba and MambaIR are known at compile time; 0 reads the count at run time.
#define QMAMBA_WITH_STATES(call) \
  switch (scan.states) {         \
    case 1: call(1); break;      \
    case 4: call(4); break;      \
    case 16: call(16); break;    \
    default: call(0);            \
  }

template <class T>
static void forward(const qmamba_scan& scan, Partition cut, qmamba_parallel_for parallel_for) {
  auto tasks = [&](int64_t begin, int64_t end) {
    const int64_t row = scan.rank + 2 * scan.states;
    Scratch scratch((scan.states + 3) * scan.padded + 2 * row + 4 * W);
    for (int64_t i = begin; i < end; i++) {
      const Task task(scan, cut, i);
#define QMAMBA_FORWARD(n) forward_task<n, T>(scan, ComputedDelta(), task, scratch.begin())
      QMAMBA_WITH_STATES(QMAMBA_FORWARD)
#undef QMAMBA_FORWARD
    }
  };
  run_ranges(parallel_for, tasks_of(scan, cut), 1, tasks);
  if (!scan.merged) return;
  auto rows = [&](int64_t begin, int64_t end) {
    Scratch sums(scan.padded);
    merge_rows<T>(scan, cut, begin, end, sums.begin());
  };
  run_ranges(parallel_for, scan.batch * scan.pixels, std::max<int64_t>(1, 16384 / scan.channels), rows);
}

template <class T>
static void backward(const qmamba_scan& scan, Partition cut, qmamba_parallel_for parallel_for) {
  const int64_t groups = cut.groups;
  const int64_t plane = scan.pixels * scan.routes * (scan.rank + 2 * scan.states);
  float* grad_rows = scan.grad_projected;
  if (groups > 1)
    grad_rows = scan.workspace + (scan.shared ? scan.batch * scan.padded * scan.pixels : 0);
  auto tasks = [&](int64_t begin, int64_t end) {
    Scratch scratch(Tape::floats(scan));
    const Tape tape(scan, scratch.begin());
    for (int64_t task = begin; task < end; task++) {
      const int64_t image = task / groups;
      const Slice slice = slice_of(scan, groups, task % groups);
      float* sum = accumulator(scan, image, slice);
      float* rows = grad_rows + task * plane;
#define QMAMBA_BACKWARD(n) backward_task<n, T>(scan, image, slice, sum, rows, tape)
      QMAMBA_WITH_STATES(QMAMBA_BACKWARD)
#undef QMAMBA_BACKWARD
    }
  };
  run_ranges(parallel_for, scan.batch * groups, 1, tasks);
  auto rows = [&](int64_t begin, int64_t end) {
    finish_rows<T>(scan, groups, grad_rows, begin, end);
  };
  run_ranges(parallel_for, scan.batch * scan.pixels, std::max<int64_t>(1, 16384 / scan.channels), rows);
}

}  // namespace

extern "C" void QMAMBA_JOIN(qmamba_forward_, QMAMBA_VARIANT)(const qmamba_scan* scan, Partition cut,
                                                             qmamba_parallel_for parallel_for) {
  using namespace QMAMBA_JOIN(qmamba_, QMAMBA_VARIANT);
  if (scan->dtype == QMAMBA_BFLOAT16) forward<bfloat16>(*scan, cut, parallel_for);
  else forward<float>(*scan, cut, parallel_for);
}

extern "C" void QMAMBA_JOIN(qmamba_backward_, QMAMBA_VARIANT)(const qmamba_scan* scan, Partition cut,
                                                              qmamba_parallel_for parallel_for) {
  using namespace QMAMBA_JOIN(qmamba_, QMAMBA_VARIANT);
  if (scan->dtype == QMAMBA_BFLOAT16) backward<bfloat16>(*scan, cut, parallel_for);
  else backward<float>(*scan, cut, parallel_for);
}
