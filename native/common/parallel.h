// Loops on the threads that the caller lends.
#pragma once

#include "common/interface.h"

// body(begin, end) over disjoint parts of [0, count).
template <class Body>
static void run_ranges(qmamba_parallel_for parallel_for, int64_t count, int64_t grain,
                       const Body& body) {
  parallel_for(
      0, count, grain,
      [](int64_t begin, int64_t end, void* context) { (*(const Body*)context)(begin, end); },
      (void*)&body);
}

// body(i) for each i below count.
template <class Body>
static void run_each(qmamba_parallel_for parallel_for, int64_t count, const Body& body) {
  run_ranges(parallel_for, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) body(i);
  });
}
