#include "common/dispatch.h"

#include <algorithm>
#include <thread>
#include <vector>

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
    pool.emplace_back([=] {
      body(begin + count * i / threads, begin + count * (i + 1) / threads, context);
    });
  body(begin, begin + count / threads, context);
  for (auto& thread : pool) thread.join();
  return 0;
}

}  // namespace

qmamba_parallel_for qmamba_threads(qmamba_parallel_for torch_pool, int32_t threads) {
  own_thread_count = threads;
  return torch_pool ? torch_pool : own_parallel_for;
}

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
