// How a call of the scan is cut into tasks.
#pragma once
#include <algorithm>

#include "scan/scan.h"

// A task owns a range of channels of one image, and either all routes or a single one, so that no two
// tasks ever write to the same cache line.
struct Partition {
  int64_t groups;        // channel groups
  int64_t route_splits;  // 1, or `routes`
};

// The cut that keeps all threads busy with the fewest, largest channel groups. Splitting the routes
// costs one more accumulator each, so it is used only where channels and images do not suffice.
static inline Partition choose_partition(const qmamba_scan& scan, int64_t threads, bool may_split_routes) {
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
