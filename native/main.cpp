// The exported functions: choice of the instruction set, of the cut into tasks, and the threads.
#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "scan.h"

#define QMAMBA_EXPORT extern "C" __attribute__((visibility("default")))

extern "C" {
#define QMAMBA_DECLARE(variant)                                                       \
  void qmamba_forward_##variant(const qmamba_scan*, Partition, qmamba_parallel_for);  \
  void qmamba_backward_##variant(const qmamba_scan*, Partition, qmamba_parallel_for);
QMAMBA_DECLARE(base)
#if defined(QMAMBA_X86)
QMAMBA_DECLARE(v3)
QMAMBA_DECLARE(v4)
#endif
}

namespace {

// Own threads, for builds of torch that do not export their pool. One call at a time sets `count`.
thread_local int own_thread_count = 1;

int32_t own_parallel_for(int64_t begin, int64_t end, int64_t, qmamba_body body, void* context) {
  const int64_t threads = std::min<int64_t>(own_thread_count, end - begin);
  if (threads <= 1) {
    if (end > begin) body(begin, end, context);
    return 0;
  }
  std::vector<std::thread> pool;
  const int64_t count = end - begin;
  for (int64_t i = 1; i < threads; i++)
    pool.emplace_back([=] { body(begin + count * i / threads, begin + count * (i + 1) / threads, context); });
  body(begin, begin + count / threads, context);
  for (auto& thread : pool) thread.join();
  return 0;
}

// The cut that keeps all threads busy with the fewest, largest channel groups. Splitting the routes
// costs one more accumulator each, so it is used only where channels and images do not suffice.
Partition choose_partition(const qmamba_scan& scan, int64_t threads, bool may_split_routes) {
  const int64_t vectors = scan.padded / 16;
  Partition best{1, 1};
  double best_value = -1;
  for (int64_t split : {int64_t{1}, scan.routes}) {
    if (split > 1 && !may_split_routes) continue;
    for (int64_t groups = 1; groups <= std::min(vectors, 2 * threads); groups++) {
      const int64_t tasks = scan.batch * groups * split;
      const int64_t rounds = (tasks + threads - 1) / threads;
      const int64_t largest = (vectors + groups - 1) / groups;
      const double busy = double(vectors * scan.batch * split) / double(rounds * largest * threads);
      const double value = busy - 0.002 * double(groups) - (split > 1 ? 0.06 : 0.0);
      if (value > best_value + 1e-9) {
        best_value = value;
        best = {groups, split};
      }
    }
  }
  return best;
}

}  // namespace

// Lanes of the widest variant that this processor runs: 16, 8 or 4.
QMAMBA_EXPORT int32_t qmamba_lanes() {
#if defined(QMAMBA_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512cd"))
    return 16;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2"))
    return 8;
#endif
  return 4;
}

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

#if defined(QMAMBA_X86)
#define QMAMBA_DISPATCH(pass)                                          \
  if (lanes >= 16) qmamba_##pass##_v4(scan, cut, run);                 \
  else if (lanes >= 8) qmamba_##pass##_v3(scan, cut, run);             \
  else qmamba_##pass##_base(scan, cut, run);
#else
#define QMAMBA_DISPATCH(pass) qmamba_##pass##_base(scan, cut, run);
#endif

// `torch_pool` is libtorch's parallel loop or null; `lanes` chooses the variant and must not exceed
// qmamba_lanes().
QMAMBA_EXPORT void qmamba_forward(const qmamba_scan* scan, qmamba_parallel_for torch_pool,
                                  int32_t threads, int32_t lanes) {
  own_thread_count = threads;
  const qmamba_parallel_for run = torch_pool ? torch_pool : own_parallel_for;
  const Partition cut = choose_partition(*scan, threads, scan->merged);
  (void)lanes;
  QMAMBA_DISPATCH(forward)
}

QMAMBA_EXPORT void qmamba_backward(const qmamba_scan* scan, qmamba_parallel_for torch_pool,
                                   int32_t threads, int32_t lanes) {
  own_thread_count = threads;
  const qmamba_parallel_for run = torch_pool ? torch_pool : own_parallel_for;
  const Partition cut = choose_partition(*scan, threads, false);
  (void)lanes;
  QMAMBA_DISPATCH(backward)
}
