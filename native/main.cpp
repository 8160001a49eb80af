// The exported functions: choice of the instruction set, of the cut into tasks, and the threads.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>
#include <vector>

#include "integer_scratch.h"
#include "scan.h"
#include "maps.h"
#include "quantized.h"

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

#define QMAMBA_DECLARE_INTEGER(variant) \
  void qmamba_integer_linear_##variant(const qmamba_integer_call*, int64_t, qmamba_parallel_for);
QMAMBA_DECLARE_INTEGER(base)
#if defined(QMAMBA_X86)
QMAMBA_DECLARE_INTEGER(v3)
QMAMBA_DECLARE_INTEGER(v4)
QMAMBA_DECLARE_INTEGER(vnni)
#if defined(QMAMBA_AVXVNNI)
QMAMBA_DECLARE_INTEGER(avxvnni)
#endif
#endif

#define QMAMBA_DECLARE_QUANTIZED(variant)                                                      \
  void qmamba_operand_##variant(const qmamba_operand*, qmamba_parallel_for);               \
  void qmamba_scan_operands_##variant(const qmamba_scan_operands*, qmamba_parallel_for);         \
  void qmamba_depthwise_##variant(const qmamba_depthwise*, qmamba_parallel_for);           \
  void qmamba_weighted_sum_##variant(const qmamba_weighted_sum*, qmamba_parallel_for);     \
  void qmamba_layer_norm_##variant(const qmamba_layer_norm*, qmamba_parallel_for);         \
  void qmamba_quantized_scan_##variant(const qmamba_quantized_scan*, Partition, qmamba_parallel_for);
QMAMBA_DECLARE_QUANTIZED(base)
#if defined(QMAMBA_X86)
QMAMBA_DECLARE_QUANTIZED(v3)
QMAMBA_DECLARE_QUANTIZED(v4)
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

namespace {

// One task for each thread, each with scratch memory of its own. A row's result does not depend on
// the cut.
int64_t integer_tasks(const qmamba_integer_call& call, int32_t threads) {
  return std::max<int64_t>(1, std::min<int64_t>(threads, call.rows));
}

}  // namespace

// Bytes of `workspace` that a call with these sizes needs.
QMAMBA_EXPORT int64_t qmamba_integer_workspace(const qmamba_integer_call* call, int32_t threads) {
  return integer_tasks(*call, threads) * IntegerScratch(*call, nullptr).bytes + 64;
}

// `torch_pool` and `lanes` as for qmamba_forward; negative `lanes` leave instructions for dot products
// of integers out.
QMAMBA_EXPORT void qmamba_integer_linear(const qmamba_integer_call* call,
                                         qmamba_parallel_for torch_pool, int32_t threads,
                                         int32_t lanes) {
  own_thread_count = threads;
  const qmamba_parallel_for run = torch_pool ? torch_pool : own_parallel_for;
  const int64_t tasks = integer_tasks(*call, threads);
#if defined(QMAMBA_X86)
  if (lanes >= 16 && __builtin_cpu_supports("avx512vnni"))
    return qmamba_integer_linear_vnni(call, tasks, run);
#if defined(QMAMBA_AVXVNNI)
  if (lanes == 8 && __builtin_cpu_supports("avxvnni"))
    return qmamba_integer_linear_avxvnni(call, tasks, run);
#endif
  const int32_t width = std::abs(lanes);
  if (width >= 16) return qmamba_integer_linear_v4(call, tasks, run);
  if (width >= 8) return qmamba_integer_linear_v3(call, tasks, run);
#endif
  (void)lanes;
  qmamba_integer_linear_base(call, tasks, run);
}

// Numbers of `tables` that a call with these sizes needs.
QMAMBA_EXPORT int64_t qmamba_quantized_floats(const qmamba_quantized_scan* call) {
  const qmamba_scan& scan = call->scan;
  const int64_t rows = 2 + scan.rank + (call->lanes ? 0 : scan.states);
  return qmamba_table_numbers(*call) + (rows * scan.routes + 1) * scan.padded;
}

#if defined(QMAMBA_X86)
#define QMAMBA_CHOOSE(pass, ...)                          \
  if (lanes >= 16) qmamba_##pass##_v4(__VA_ARGS__);       \
  else if (lanes >= 8) qmamba_##pass##_v3(__VA_ARGS__);   \
  else qmamba_##pass##_base(__VA_ARGS__);
#else
#define QMAMBA_CHOOSE(pass, ...) qmamba_##pass##_base(__VA_ARGS__);
#endif

// `torch_pool` and `lanes` as for qmamba_forward.
#define QMAMBA_RUN(pass)                                                                   \
  QMAMBA_EXPORT void qmamba_run_##pass(const qmamba_##pass* call,                          \
                                       qmamba_parallel_for torch_pool, int32_t threads,    \
                                       int32_t lanes) {                                    \
    own_thread_count = threads;                                                            \
    const qmamba_parallel_for run = torch_pool ? torch_pool : own_parallel_for;            \
    (void)lanes;                                                                           \
    QMAMBA_CHOOSE(pass, call, run)                                                         \
  }
QMAMBA_RUN(operand)
QMAMBA_RUN(scan_operands)
QMAMBA_RUN(depthwise)
QMAMBA_RUN(weighted_sum)
QMAMBA_RUN(layer_norm)

QMAMBA_EXPORT void qmamba_run_quantized_scan(const qmamba_quantized_scan* call,
                                         qmamba_parallel_for torch_pool, int32_t threads,
                                         int32_t lanes) {
  own_thread_count = threads;
  const qmamba_parallel_for run = torch_pool ? torch_pool : own_parallel_for;
  const Partition cut = choose_partition(call->scan, threads, call->scan.merged);
  (void)lanes;
  QMAMBA_CHOOSE(quantized_scan, call, cut, run)
}
