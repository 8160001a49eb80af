// What every part of the C interface shares: element types, and the loop over threads that the caller lends.
#pragma once
#include <cstdint>

extern "C" {

// Element type of maps and rows. Everything else is float32.
enum qmamba_dtype : int32_t { QMAMBA_FLOAT32 = 0, QMAMBA_BFLOAT16 = 1 };

// What is applied to the result of a layer.
enum qmamba_activation : int32_t { QMAMBA_NO_ACTIVATION = 0, QMAMBA_SILU = 1, QMAMBA_GELU = 2 };

// Codes that a layer writes for its reader, whose quantization parameters are given, in place of numbers
// or beside them. They are stored as their distance from the first.
struct qmamba_code_output {
  uint8_t* codes;      // dense; or null
  int64_t columns;     // how many of the first columns of a row
  float scale, offset; // code c stands for c * scale - offset
  float first, last;   // the smallest and the largest code
};

// Runs body(begin, end, context) over disjoint parts of [begin, end), possibly on several threads.
typedef void (*qmamba_body)(int64_t begin, int64_t end, void* context);
typedef int32_t (*qmamba_parallel_for)(int64_t begin, int64_t end, int64_t grain, qmamba_body body,
                                       void* context);
}
