#include "common/dispatch.h"

#include <algorithm>
#include <thread>
#include <vector>

#if defined(QMAMBA_X86)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

// Tiles have to be asked for: threads keep 8 KiB more of state then.
bool take_tiles() {
#if defined(QMAMBA_X86) && defined(__linux__)
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return false;
  unsigned enabled, high;
  asm volatile("xgetbv" : "=a"(enabled), "=d"(high) : "c"(0));
  constexpr unsigned kTileState = 3u << 17, kTileInt8 = 3u << 24;
  if ((enabled & kTileState) != kTileState) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kTileInt8) != kTileInt8) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
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

QMAMBA_EXPORT int32_t qmamba_has_tiles() {
  static const bool taken = take_tiles();
  return taken;
}
