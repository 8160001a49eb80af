// Time steps of a map from their low-rank form. They are computed anew each time they are needed.
// Included inside a namespace of its own by each variant.

// kBlock time steps of a vector of channels; `row` are the low-rank forms.
QMAMBA_INLINE void low_rank_steps(const float* weights, int64_t rank, int64_t padded,
                                  const float* const* row, vfloat steps[kBlock]) {
#pragma GCC unroll 8
  for (int t = 0; t < kBlock; t++) steps[t] = vfloat{};
  for (int64_t r = 0; r < rank; r++) {
    const vfloat weight = load(weights + r * padded);
#pragma GCC unroll 8
    for (int t = 0; t < kBlock; t++) steps[t] += weight * row[t][r];
  }
}

// Adds the time steps of up to kBlock pixels to their moments.
static void add_steps(const float* weights, int64_t rank, int64_t padded, int64_t channels,
                      const float* const* row, int live, Moments& moments) {
  for (int64_t channel = 0; channel < channels; channel += W) {
    const int count = (int)std::min<int64_t>(W, channels - channel);
    vfloat steps[kBlock];
    low_rank_steps(weights + channel, rank, padded, row, steps);
    if (count == W && live == kBlock) {
#pragma GCC unroll 8
      for (int t = 0; t < kBlock; t++) moments.add(steps[t]);
    } else {
      for (int t = 0; t < live; t++) moments.add_first(steps[t], count);
    }
  }
}

// The time step of the first channel at a pixel.
static float first_step(const float* low, const float* weights, int64_t rank, int64_t padded) {
  float step = 0;
  for (int64_t r = 0; r < rank; r++) step += low[r] * weights[r * padded];
  return step;
}

static float first_step(const qmamba_steps& call, int64_t image) {
  const float* low = call.low + image * call.pixels * call.routes * call.row;
  return first_step(low, call.weights, call.rank, call.padded);
}

// Calls body(route, first pixel, live pixels, rows) for all blocks of pixels of a part of an image.
template <class Body>
QMAMBA_INLINE void each_block(const qmamba_steps& call, int64_t image, int64_t part, Body body) {
  const int64_t begin = call.pixels * part / kParts, end = call.pixels * (part + 1) / kParts;
  for (int64_t route = 0; route < call.routes; route++) {
    const float* low = call.low + (image * call.pixels * call.routes + route) * call.row;
    for (int64_t first = begin; first < end; first += kBlock) {
      const int live = (int)std::min<int64_t>(kBlock, end - first);
      const float* row[kBlock];
      for (int t = 0; t < kBlock; t++)
        row[t] = low + (first + (t < live ? t : 0)) * call.routes * call.row;
      body(route, first, live, row);
    }
  }
}

static void step_moments(const qmamba_steps& call, int64_t image, int64_t part) {
  Moments moments(first_step(call, image));
  each_block(call, image, part, [&](int64_t route, int64_t, int live, const float* const* row) {
    add_steps(call.weights + route * call.rank * call.padded, call.rank, call.padded, call.channels,
              row, live, moments);
    moments.flush();
  });
  moments.finish(call.partial + (image * kParts + part) * 4);
}

static void step_levels(const qmamba_steps& call, int64_t image, int64_t part) {
  const Levels levels(call.rule, image);
  each_block(call, image, part, [&](int64_t route, int64_t pixel, int live, const float* const* row) {
    const float* weights = call.weights + route * call.rank * call.padded;
    float* to = call.values +
                ((image * call.routes + route) * call.pixels + pixel) * call.channels;
    for (int64_t channel = 0; channel < call.channels; channel += W) {
      const int count = (int)std::min<int64_t>(W, call.channels - channel);
      vfloat steps[kBlock];
      low_rank_steps(weights + channel, call.rank, call.padded, row, steps);
      for (int t = 0; t < live; t++)
        store_first(to + t * call.channels + channel, levels.value(steps[t]), count);
    }
  });
}

// The operands of a scan, part by part: the low-rank steps onto their grid, and the moments of all
// whose grids follow the image. `pivots` are those of x, the steps, B and C.
static void scan_moments(const qmamba_scan_grids& call, int64_t image, int64_t part,
                         const float* pivots) {
  const int64_t begin = call.pixels * part / kParts, end = call.pixels * (part + 1) / kParts;
  const int64_t columns = call.rank + 2 * call.states, stride = call.routes * columns;
  const Levels low(call.low, image);
  Moments x(pivots[QMAMBA_X]), steps(pivots[QMAMBA_STEPS]), B(pivots[QMAMBA_B]),
      C(pivots[QMAMBA_C]);
  const bool follows[] = {call.operands[0].weights != nullptr, call.operands[1].weights != nullptr,
                          call.operands[2].weights != nullptr, call.operands[3].weights != nullptr};
  auto add = [](Moments& moments, const float* numbers, int64_t count) {
    int64_t i = 0;
    for (; i + W <= count; i += W) moments.add(load(numbers + i));
    if (i < count) {
      const int rest = (int)(count - i);
      moments.add_first(load_first(numbers + i, rest), rest);
    }
  };
  for (int64_t first = begin; first < end; first += kBlock) {
    const int live = (int)std::min<int64_t>(kBlock, end - first);
    if (follows[QMAMBA_X])
      for (int t = 0; t < live; t++)
        add(x, call.x + (image * call.pixels + first + t) * call.channels, call.channels);
    for (int64_t route = 0; route < call.routes; route++) {
      const float* row[kBlock];
      for (int t = 0; t < live; t++) {
        float* numbers = call.projected + (image * call.pixels + first + t) * stride + route * columns;
        row[t] = numbers;
        for (int64_t r = 0; r < call.rank; r += W) {
          const int count = (int)std::min<int64_t>(W, call.rank - r);
          store_first(numbers + r, low.value(load_first(numbers + r, count)), count);
        }
        if (follows[QMAMBA_B]) add(B, numbers + call.rank, call.states);
        if (follows[QMAMBA_C]) add(C, numbers + call.rank + call.states, call.states);
      }
      for (int t = live; t < kBlock; t++) row[t] = row[0];
      if (follows[QMAMBA_STEPS])
        add_steps(call.weights + route * call.rank * call.padded, call.rank, call.padded,
                  call.channels, row, live, steps);
    }
    for (Moments* moments : {&x, &steps, &B, &C}) moments->flush();
  }
  Moments* const all[] = {&x, &steps, &B, &C};
  for (int which = 0; which < 4; which++)
    all[which]->finish(call.partial + ((which * call.batch + image) * kParts + part) * 4);
}
