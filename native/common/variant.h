// What each instruction set's translation unit starts with: the vector width, and its own names.
// Compiled once per variant with QMAMBA_VARIANT and the instruction set given.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#define W 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define W 8
#else
#define W 4
#endif

#define QMAMBA_JOIN_(a, b) a##b
#define QMAMBA_JOIN(a, b) QMAMBA_JOIN_(a, b)

// The C name of a pass that a namespace of the unit defines.
#define QMAMBA_EXPORT_PASS(unit, pass)                                         \
  extern "C" void QMAMBA_JOIN(qmamba_##pass##_, QMAMBA_VARIANT)(               \
      const qmamba_##pass* call, qmamba_parallel_for parallel_for) {           \
    QMAMBA_JOIN(qmamba_##unit##_, QMAMBA_VARIANT)::pass(*call, parallel_for);  \
  }
