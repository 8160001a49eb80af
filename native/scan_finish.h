// The routes of a quantized scan merged, normalized and gated. Included inside a namespace of its own
// by each variant.

QMAMBA_INLINE vfloat sigmoid(vfloat v) { return 1.0f / (1.0f + exp2(v * -1.4426950408889634f)); }

// Rows that are finished together: each phase goes through all of them, because one row alone is a
// chain of operations that wait for each other. Their sums fill one vector.
constexpr int64_t kRows = W;

// The sums over routes and skip terms of some rows into `sums` (rows, padded), and their means.
static vfloat merge(const qmamba_quantized_scan& call, Partition cut, int64_t begin, int64_t number,
                    float* sums) {
  const qmamba_scan& scan = call.scan;
  const int64_t image = begin / scan.pixels, pixel = begin % scan.pixels;
  vfloat totals[kRows] = {};
  for (int64_t group = 0; group < cut.groups; group++) {
    const Slice slice = slice_of(scan, cut.groups, group);
    for (int v = 0; v < slice.vectors; v++) {
      const int64_t channel = slice.first + (int64_t)v * W;
      const int count = v + 1 == slice.vectors ? slice.last_count : W;
      const vfloat skip = load(scan.skip + channel);
      const float* x = (const float*)scan.x + begin * scan.channels + channel;
      for (int64_t r = 0; r < number; r++) {
        // Routes are added in their order whether they were split or not. Dead lanes stay zero:
        // those of the accumulators and of the skip terms are.
        vfloat sum = load_first(x + r * scan.channels, count) * skip;
        vfloat routes = vfloat{};
        for (int64_t split = 0; split < cut.route_splits; split++)
          routes += load(accumulator(scan, image * cut.route_splits + split, slice) +
                         (pixel + r) * slice.width() + (int64_t)v * W);
        sum += routes;
        store(sums + r * scan.padded + channel, sum);
        totals[r] += sum;
      }
    }
  }
  return fold<Sum>(totals) / (float)scan.channels;
}

// Fetches what the rows after these will be made of, and the gate of these, which is read last.
QMAMBA_INLINE void prefetch_rows(const qmamba_quantized_scan& call, int64_t begin, int64_t number) {
  const qmamba_scan& scan = call.scan;
  const int64_t row = scan.channels * (int64_t)sizeof(float);
  for (int64_t r = 0; r < number; r++) {
    const char* x = (const char*)((const float*)scan.x + (begin + number + r) * scan.channels);
    const char* gate = (const char*)(call.gate + (begin + r) * call.gate_stride);
    for (int64_t i = 0; i < row; i += 64) {
      __builtin_prefetch(x + i, 0, 2);
      if (call.gate) __builtin_prefetch(gate + i, 0, 3);
    }
  }
}

// At most kRows merged rows of one image, normalized and gated.
static void finish_rows(const qmamba_quantized_scan& call, Partition cut, int64_t begin,
                        int64_t number, float* sums, Moments& result) {
  const qmamba_scan& scan = call.scan;
  Moments moments = result;
  float means[kRows], inverse[kRows];
  prefetch_rows(call, begin, number);
  store(means, merge(call, cut, begin, number, sums));
  if (scan.norm_weight) {
    const auto read = [&](int64_t r, int64_t i, int) QMAMBA_ALWAYS_INLINE {
      return load(sums + r * scan.padded + i);
    };
    store(inverse, inverse_deviations(number, scan.channels, scan.norm_epsilon, means, read));
  }
  for (int64_t channel = 0; channel < scan.channels; channel += W) {
    const int count = (int)std::min<int64_t>(W, scan.channels - channel);
    vfloat weight, bias;
    if (scan.norm_weight) {
      weight = load_first(scan.norm_weight + channel, count);
      bias = load_first(scan.norm_bias + channel, count);
    }
    float* y = (float*)scan.y + begin * scan.channels + channel;
    const float* gate = call.gate + begin * call.gate_stride + channel;
    for (int64_t r = 0; r < number; r++) {
      vfloat value = load(sums + r * scan.padded + channel);
      if (scan.norm_weight) value = (value - means[r]) * (weight * inverse[r]) + bias;
      if (call.gate) {
        const vfloat z = load_first(gate + r * call.gate_stride, count);
        value *= z * sigmoid(z);
      }
      store_first(y + r * scan.channels, value, count);
      if (call.output.weights) moments.add_first(value, count);
    }
  }
  moments.flush();
  result = moments;
}

// The first number of the result of an image, for its moments.
static float first_result(const qmamba_quantized_scan& call, Partition cut, int64_t image,
                          float* sums) {
  Moments unused(0);
  finish_rows(call, cut, image * call.scan.pixels, 1, sums, unused);
  return ((const float*)call.scan.y)[image * call.scan.pixels * call.scan.channels];
}
