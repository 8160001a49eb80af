// Passes over channel-last maps, for one instruction set.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "common/parallel.h"
#include "common/variant.h"
#include "maps/maps.h"

namespace QMAMBA_JOIN(qmamba_maps_, QMAMBA_VARIANT) {

#include "common/simd.inc"
#include "common/lanes.inc"

// Numbers that are worth a thread.
constexpr int64_t kGrain = 32768;

static void weighted_sum(const qmamba_weighted_sum& call, qmamba_parallel_for parallel_for) {
  const int64_t channels = call.channels, grain = std::max<int64_t>(1, kGrain / channels);
  run_ranges(parallel_for, call.batch * call.pixels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const float* z_weight = call.z_weight + row / call.pixels * channels;
      for (int64_t c = 0; c < channels; c += W) {
        const int count = (int)std::min<int64_t>(W, channels - c);
        const int64_t place = row * channels + c;
        const vfloat x = load_first(call.x + place, count) * load_first(call.x_weight + c, count);
        const vfloat z = load_first(call.z + place, count) * load_first(z_weight + c, count);
        store_first(call.y + place, x + z, count);
      }
    }
  });
}

// At most W rows.
template <class T>
static void normalize(const qmamba_layer_norm& call, int64_t first, int64_t number) {
  const int64_t channels = call.channels, whole = channels / W * W;
  const int rest = (int)(channels - whole);
  const T* x = (const T*)call.x + first * channels;
  T* y = (T*)call.y + first * channels;
  const auto read = [&](int64_t r, int64_t c, int live) QMAMBA_ALWAYS_INLINE {
    return load_part(x + r * channels + c, live);
  };
  float mean[W], scale[W];
  store(mean, row_means(number, channels, read));
  store(scale, inverse_deviations(number, channels, call.epsilon, mean, read));
  for (int64_t r = 0; r < number; r++) {
    const T* row = x + r * channels;
    T* to = y + r * channels;
    for (int64_t c = 0; c < whole; c += W)
      store(to + c, (load(row + c) - mean[r]) * (load(call.weight + c) * scale[r]) +
                        load(call.bias + c));
    if (rest) {
      const vfloat weight = load_part(call.weight + whole, rest) * scale[r];
      const vfloat centered = load_part(row + whole, rest) - mean[r];
      store_part(to + whole, centered * weight + load_part(call.bias + whole, rest), rest);
    }
  }
}

static void layer_norm(const qmamba_layer_norm& call, qmamba_parallel_for parallel_for) {
  const int64_t grain = std::max<int64_t>(1, kGrain / call.channels);
  // Rows that are read three times and stay in the cache meanwhile.
  const int64_t together = std::max<int64_t>(1, std::min<int64_t>(W, 8192 / call.channels));
  run_ranges(parallel_for, call.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row += together) {
      const int64_t number = std::min(together, end - row);
      if (call.dtype == QMAMBA_BFLOAT16) normalize<bfloat16>(call, row, number);
      else normalize<float>(call, row, number);
    }
  });
}

}  // namespace

QMAMBA_EXPORT_PASS(maps, weighted_sum)
QMAMBA_EXPORT_PASS(maps, layer_norm)
