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
QMAMBA_INLINE void add_steps(const float* weights, int64_t rank, int64_t padded, int64_t channels,
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
