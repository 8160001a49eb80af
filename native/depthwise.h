// A depthwise convolution of one vector of channels at a time: rows of the input are put on their
// grid once, as they are reached, and stay in the cache while the window passes over them. Included
// inside a namespace of its own by each variant.

// erf to 2e-7: Abramowitz and Stegun 7.1.26.
QMAMBA_INLINE vfloat erf(vfloat v) {
  const vfloat x = absolute(v), t = 1.0f / (1.0f + 0.3275911f * x);
  vfloat p = broadcast(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const vfloat positive = 1.0f - p * t * exp2(x * x * -1.4426950408889634f);
  return v < vfloat{} ? -positive : positive;
}

QMAMBA_INLINE vfloat activate(vfloat v, int32_t activation) {
  if (activation == QMAMBA_SILU) return v * sigmoid(v);
  if (activation == QMAMBA_GELU) return 0.5f * v * (1.0f + erf(v * 0.7071067811865475f));
  return v;
}

// The widest window; wider ones are not computed here.
constexpr int kWidestWindow = 15;

// The rows of one part of an image. `ring` holds as many padded rows as the window is high.
template <int Side>
static void depthwise_part(const qmamba_depthwise& call, int64_t image, int64_t part, int64_t parts,
                           float* ring) {
  const int side = Side ? Side : (int)call.side;
  const int64_t reach = side / 2 * call.dilation, high = 2 * reach + 1;
  const int64_t padded_width = call.width + 2 * reach;
  const int64_t begin = call.height * part / parts, end = call.height * (part + 1) / parts;
  const Levels levels(call.grid ? *call.grid : qmamba_grid{1, 0, 0, 0}, call.first, call.last);
  const float* x = call.x + image * call.height * call.width * call.stride;
  float* y = call.y + image * call.height * call.width * call.channels;
  for (int64_t channel = 0; channel < call.channels; channel += W) {
    const int count = (int)std::min<int64_t>(W, call.channels - channel);
    std::memset(ring, 0, sizeof(float) * high * padded_width * W);
    for (int64_t row = begin - reach; row < end + reach; row++) {
      float* to = ring + ((row + high) % high * padded_width + reach) * W;
      for (int64_t j = 0; j < call.width; j++) {
        vfloat v = vfloat{};
        if (row >= 0 && row < call.height) {
          v = load_first(x + (row * call.width + j) * call.stride + channel, count);
          if (call.grid) v = levels.value(v);
        }
        store(to + j * W, v);
      }
      const int64_t center = row - reach;
      if (center < begin) continue;
      // Rows of the window and its weights, which stores would otherwise have read again.
      constexpr int kMost = Side ? Side : kWidestWindow;
      const float* from[kMost];
      for (int a = 0; a < side; a++) {
        const int64_t source = center + (a - side / 2) * call.dilation;
        from[a] = ring + (source + high) % high * padded_width * W;
      }
      vfloat weights[kMost * kMost];
      for (int a = 0; a < side; a++)
        for (int b = 0; b < side; b++)
          weights[a * side + b] = load(call.weights + (a * side + b) * call.padded + channel);
      const vfloat bias = load(call.bias + channel);
      for (int64_t j = 0; j < call.width; j++) {
        vfloat sum = bias;
        for (int a = 0; a < side; a++)
          for (int b = 0; b < side; b++)
            sum += load(from[a] + (j + b * call.dilation) * W) * weights[a * side + b];
        store_first(y + (center * call.width + j) * call.channels + channel,
                    activate(sum, call.activation), count);
      }
    }
  }
}
