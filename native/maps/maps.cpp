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

// The sum, once the weights of z are known.
static void weighted_sum(const qmamba_attended_sum& call, qmamba_parallel_for parallel_for) {
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

// The sums of the channels of one part of an image.
static void sum_channels(const qmamba_attended_sum& call, int64_t image, int64_t part) {
  constexpr int64_t kTogether = 64;  // rows that stay in the cache from one vector of channels to the next
  const int64_t channels = call.channels;
  const int64_t begin = call.pixels * part / kMapParts, end = call.pixels * (part + 1) / kMapParts;
  float* sums = call.partial + (image * kMapParts + part) * channels;
  std::memset(sums, 0, sizeof(float) * channels);
  for (int64_t first = begin; first < end; first += kTogether) {
    const int64_t last = std::min(first + kTogether, end);
    for (int64_t c = 0; c < channels; c += W) {
      const int count = (int)std::min<int64_t>(W, channels - c);
      const float* z = call.z + image * call.pixels * channels + c;
      vfloat sum = vfloat{};
      for (int64_t row = first; row < last; row++) sum += load_first(z + row * channels, count);
      store_first(sums + c, load_first(sums + c, count) + sum, count);
    }
  }
}

// The attention of one image, from the sums of its parts, whose first one becomes the mean.
static void attend(const qmamba_attended_sum& call, int64_t image) {
  const int64_t channels = call.channels;
  float* mean = call.partial + image * kMapParts * channels;
  for (int64_t c = 0; c < channels; c++) {
    float sum = 0;
    for (int64_t part = 0; part < kMapParts; part++) sum += mean[part * channels + c];
    mean[c] = sum / (float)call.pixels;
  }
  float* weight = call.z_weight + image * channels;
  std::memcpy(weight, call.excite_bias, sizeof(float) * channels);
  for (int64_t h = 0; h < call.hidden; h++) {
    float hidden = call.squeeze_bias[h];
    for (int64_t c = 0; c < channels; c++) hidden += call.squeeze[h * channels + c] * mean[c];
    if (hidden < 0) hidden = 0;
    for (int64_t c = 0; c < channels; c++) weight[c] += call.excite[c * call.hidden + h] * hidden;
  }
  for (int64_t c = 0; c < channels; c += W) {
    const int count = (int)std::min<int64_t>(W, channels - c);
    store_first(weight + c, sigmoid(load_first(weight + c, count)), count);
  }
}

static void attended_sum(const qmamba_attended_sum& call, qmamba_parallel_for parallel_for) {
  const int64_t grain = std::max<int64_t>(1, kGrain * kMapParts / (call.pixels * call.channels));
  run_ranges(parallel_for, call.batch * kMapParts, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) sum_channels(call, i / kMapParts, i % kMapParts);
  });
  for (int64_t image = 0; image < call.batch; image++) attend(call, image);
  weighted_sum(call, parallel_for);
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

QMAMBA_EXPORT_PASS(maps, attended_sum)
QMAMBA_EXPORT_PASS(maps, layer_norm)
