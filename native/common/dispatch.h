// What the exported functions share: the variant for the lanes that are asked for, and the threads.
#pragma once

#include "common/interface.h"

#define QMAMBA_EXPORT extern "C" __attribute__((visibility("default")))

// `QMAMBA_DECLARE(pass, ...)` declares the variants of a pass with these parameters, and
// `QMAMBA_CHOOSE(pass, ...)` calls the one for `lanes`, which must not exceed qmamba_lanes().
#if defined(QMAMBA_X86)
#define QMAMBA_DECLARE(pass, ...)                     \
  extern "C" void qmamba_##pass##_base(__VA_ARGS__);  \
  extern "C" void qmamba_##pass##_v3(__VA_ARGS__);    \
  extern "C" void qmamba_##pass##_v4(__VA_ARGS__);
#define QMAMBA_CHOOSE(pass, ...)                         \
  if (lanes >= 16) qmamba_##pass##_v4(__VA_ARGS__);      \
  else if (lanes >= 8) qmamba_##pass##_v3(__VA_ARGS__);  \
  else qmamba_##pass##_base(__VA_ARGS__);
#else
#define QMAMBA_DECLARE(pass, ...) extern "C" void qmamba_##pass##_base(__VA_ARGS__);
#define QMAMBA_CHOOSE(pass, ...) \
  (void)lanes;                   \
  qmamba_##pass##_base(__VA_ARGS__);
#endif

// The exported function of a pass whose variants take the call and the loop over threads.
#define QMAMBA_RUN(pass)                                                                      \
  QMAMBA_DECLARE(pass, const qmamba_##pass*, qmamba_parallel_for)                             \
  QMAMBA_EXPORT void qmamba_run_##pass(const qmamba_##pass* call,                             \
                                       qmamba_parallel_for torch_pool, int32_t threads,       \
                                       int32_t lanes) {                                       \
    const qmamba_parallel_for parallel_for = qmamba_threads(torch_pool, threads);             \
    QMAMBA_CHOOSE(pass, call, parallel_for)                                                   \
  }

// `torch_pool`, libtorch's parallel loop, or where it is null a loop over own threads.
qmamba_parallel_for qmamba_threads(qmamba_parallel_for torch_pool, int32_t threads);

// Whether this process may use the tile registers of AMX for 8-bit integers.
QMAMBA_EXPORT int32_t qmamba_has_tiles();
