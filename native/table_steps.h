// Time steps of a map from their low-rank form: their statistics, codes and levels. They are computed
// anew each time they are needed and never stored. Included inside a namespace of its own by each
// variant.

// Calls body(values, pixel, channel, count) with each vector of time steps of one part of an image.
template <class Body>
QMAMBA_INLINE void each_step(const qmamba_steps& call, int64_t image, int64_t part, Body body) {
  const int64_t begin = call.pixels * part / kParts, end = call.pixels * (part + 1) / kParts;
  const int64_t stride = call.routes * call.row;
  for (int64_t route = 0; route < call.routes; route++) {
    const float* low = call.low + (image * call.pixels * call.routes + route) * call.row;
    const float* weights = call.weights + route * call.rank * call.padded;
    for (int64_t first = begin; first < end; first += kBlock) {
      const int live = (int)std::min<int64_t>(kBlock, end - first);
      const float* row[kBlock];
      for (int t = 0; t < kBlock; t++) row[t] = low + (first + (t < live ? t : 0)) * stride;
      for (int64_t channel = 0; channel < call.channels; channel += W) {
        const int count = (int)std::min<int64_t>(W, call.channels - channel);
        vfloat steps[kBlock];
#pragma GCC unroll 8
        for (int t = 0; t < kBlock; t++) steps[t] = vfloat{};
        for (int64_t r = 0; r < call.rank; r++) {
          const vfloat weight = load(weights + r * call.padded + channel);
#pragma GCC unroll 8
          for (int t = 0; t < kBlock; t++) steps[t] += weight * row[t][r];
        }
        body(steps, route, first, live, channel, count);
      }
    }
  }
}

static float first_step(const qmamba_steps& call, int64_t image) {
  float step = 0;
  for (int64_t r = 0; r < call.rank; r++)
    step += call.low[image * call.pixels * call.routes * call.row + r] *
            call.weights[r * call.padded];
  return step;
}

static void step_moments(const qmamba_steps& call, int64_t image, int64_t part) {
  Moments moments(first_step(call, image));
  int64_t since = 0;
  each_step(call, image, part,
            [&](const vfloat* steps, int64_t, int64_t, int live, int64_t, int count) {
              if (count == W && live == kBlock) {
#pragma GCC unroll 8
                for (int t = 0; t < kBlock; t++) moments.add(steps[t]);
              } else {
                for (int t = 0; t < live; t++) moments.add_first(steps[t], count);
              }
              if (++since % kFlushRows == 0) moments.flush();
            });
  moments.finish(call.partial + (image * kParts + part) * 4);
}

static void step_codes(const qmamba_steps& call, int64_t image, int64_t part) {
  const Levels levels(call.rule.grids[image], call.rule.first, call.rule.last);
  each_step(call, image, part,
            [&](const vfloat* steps, int64_t route, int64_t pixel, int live, int64_t channel,
                int count) {
              const int64_t own = image * call.routes + route;
              if (call.codes) {
                const int64_t tile = own * (call.padded / 16) + channel / 16;
                uint8_t* to = call.codes + (tile * call.pixels + pixel) * 16 + channel % 16;
                for (int t = 0; t < live; t++)
                  store_bytes(to + t * 16, levels.code(steps[t]) - levels.first, W);
              }
              if (call.values) {
                float* to = call.values + (own * call.pixels + pixel) * call.channels + channel;
                for (int t = 0; t < live; t++)
                  store_first(to + t * call.channels, levels.value(steps[t]), count);
              }
            });
}
