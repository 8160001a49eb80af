// The exported functions of linear layers on integers.
#include <algorithm>

#include "common/dispatch.h"
#include "integer/scratch.h"

#define QMAMBA_INTEGER_PARAMETERS const qmamba_integer_call*, int64_t, qmamba_parallel_for
QMAMBA_DECLARE(integer_linear, QMAMBA_INTEGER_PARAMETERS)
#if defined(QMAMBA_X86)
extern "C" void qmamba_integer_linear_vnni(QMAMBA_INTEGER_PARAMETERS);
#if defined(QMAMBA_AMX)
extern "C" void qmamba_integer_linear_amx(QMAMBA_INTEGER_PARAMETERS);
#endif
#if defined(QMAMBA_AVXVNNI)
extern "C" void qmamba_integer_linear_avxvnni(QMAMBA_INTEGER_PARAMETERS);
#endif
#endif

namespace {

// One task for each thread, each with scratch memory of its own. A row's result does not depend on
// the cut.
int64_t task_count(const qmamba_integer_call& call, int32_t threads) {
  return std::max<int64_t>(1, std::min<int64_t>(threads, call.rows));
}

}  // namespace

// Bytes of `workspace` that a call with these sizes needs.
QMAMBA_EXPORT int64_t qmamba_integer_workspace(const qmamba_integer_call* call, int32_t threads) {
  return task_count(*call, threads) * IntegerScratch(*call, nullptr).bytes + 64;
}

QMAMBA_EXPORT void qmamba_integer_linear(const qmamba_integer_call* call,
                                         qmamba_parallel_for torch_pool, int32_t threads,
                                         int32_t lanes) {
  const qmamba_parallel_for parallel_for = qmamba_threads(torch_pool, threads);
  const int64_t tasks = task_count(*call, threads);
#if defined(QMAMBA_X86)
#if defined(QMAMBA_AMX)
  if (lanes >= 16 && call->products >= QMAMBA_TILE_PRODUCTS && qmamba_has_tiles())
    return qmamba_integer_linear_amx(call, tasks, parallel_for);
#endif
  const bool dots = call->products >= QMAMBA_DOT_PRODUCTS;
  if (lanes >= 16 && dots && __builtin_cpu_supports("avx512vnni"))
    return qmamba_integer_linear_vnni(call, tasks, parallel_for);
#if defined(QMAMBA_AVXVNNI)
  if (lanes == 8 && dots && __builtin_cpu_supports("avxvnni"))
    return qmamba_integer_linear_avxvnni(call, tasks, parallel_for);
#endif
#endif
  QMAMBA_CHOOSE(integer_linear, call, tasks, parallel_for)
}
