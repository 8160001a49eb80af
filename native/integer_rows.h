// Rows of numbers to rows of codes. Included inside a namespace of its own by each variant.

// A row of floats becomes float32 in `row`, zero up to the next multiple of W.
template <class T>
static void copy_row(const T* x, int64_t count, float* row) {
  for (int64_t i = 0; i < count; i += W) {
    const int live = (int)std::min<int64_t>(W, count - i);
    store(row + i, load_part(x + i, live));
  }
}

QMAMBA_INLINE void copy_pixel(const uint8_t* x, int64_t channels, uint8_t* to) {
  std::memcpy(to, x, channels);
}
template <class T>
QMAMBA_INLINE void copy_pixel(const T* x, int64_t channels, float* to) {
  for (int64_t c = 0; c < channels; c += W) {
    const int live = (int)std::min<int64_t>(W, channels - c);
    store_part(to + c, load_part(x + c, live), live);
  }
}

// The patch of a map around one output pixel, channels last, with a given value outside.
template <class T, class Row>
static void copy_patch(const qmamba_integer_call& call, int64_t index, Row outside, Row* row) {
  const int64_t channels = call.first.inputs / (call.side * call.side);
  const int64_t across = (call.width - 1) / call.stride + 1;
  const int64_t down = (call.height - 1) / call.stride + 1;
  const int64_t image = index / (across * down), margin = call.side / 2;
  const int64_t top = index / across % down * call.stride - margin;
  const int64_t left = index % across * call.stride - margin;
  for (int64_t i = top; i < top + call.side; i++)
    for (int64_t j = left; j < left + call.side; j++, row += channels) {
      if (i < 0 || i >= call.height || j < 0 || j >= call.width) {
        std::fill_n(row, channels, outside);
        continue;
      }
      copy_pixel((const T*)call.x + ((image * call.height + i) * call.width + j) * channels,
                 channels, row);
    }
}

// Layer norm of up to W rows that are zero after `count`, and stay so.
static void normalize(const qmamba_integer_call& call, float* rows, int64_t stride, int number) {
  const int64_t count = call.first.inputs;
  const auto read = [&](int64_t r, int64_t i, int) QMAMBA_ALWAYS_INLINE {
    return load(rows + r * stride + i);
  };
  float mean[W], scale[W];
  store(mean, row_means(number, count, read));
  store(scale, inverse_deviations(number, count, call.norm_epsilon, mean, read));
  for (int64_t i = 0; i < count; i += W) {
    const int live = (int)std::min<int64_t>(W, count - i);
    const vfloat weight = load_first(call.norm_weight + i, live);
    const vfloat bias = load_first(call.norm_bias + i, live);
    for (int r = 0; r < number; r++) {
      float* p = rows + r * stride + i;
      store(p, (load(p) - mean[r]) * (weight * scale[r]) + bias);
    }
  }
}

static float sum_codes(const uint8_t* codes, int64_t count) {
  int64_t sum = 0, i = 0;
#if defined(__AVX2__)
  __m128i sums = _mm_setzero_si128();
  for (; i + 16 <= count; i += 16)
    sums = _mm_add_epi64(sums, _mm_sad_epu8(_mm_loadu_si128((const __m128i*)(codes + i)),
                                            _mm_setzero_si128()));
  sum = _mm_cvtsi128_si64(_mm_add_epi64(sums, _mm_unpackhi_epi64(sums, sums)));
#endif
  for (; i < count; i++) sum += codes[i];
  return (float)sum;
}

// Whole numbers from 0 to 255 to bytes.
QMAMBA_INLINE void store_codes(uint8_t* to, vfloat codes) {
  typedef uint8_t vbytes __attribute__((vector_size(W)));
  const vuint bits = (vuint)(codes + 12582912.0f);  // 1.5 * 2^23: the sum's last bits are the number
  const vbytes bytes = __builtin_convertvector(bits & 0xff, vbytes);
  __builtin_memcpy(to, &bytes, sizeof bytes);
}

// Up to W rows, zero up to a multiple of W, each on the grid of 256 steps between its least and
// greatest value, zero included. A row that is not finite gets a scale that is not, and so does the
// result.
static void quantize(const float* rows, int64_t stride, int number, int64_t count, uint8_t* codes,
                     int64_t code_stride, Grid* grids) {
  vfloat low[W] = {}, high[W] = {}, poison[W] = {};
  for (int r = 0; r < number; r++)
    for (int64_t i = 0; i < count; i += W) {
      const vfloat x = load(rows + r * stride + i);
      low[r] = least(x, low[r]);
      high[r] = greatest(x, high[r]);
      poison[r] += x * 0.0f;
    }
  const vfloat lowest = fold<Least>(low), range = fold<Greatest>(high) - lowest;
  const vfloat spoiled = fold<Sum>(poison), inverse = 255.0f / range;
  const vfloat wide = range > vfloat{} ? inverse : vfloat{}, scale = range / 255.0f + spoiled;
  for (int r = 0; r < number; r++) {
    const float start = lowest[r], steps = wide[r];
    grids[r] = {scale[r], -start, 0};
    for (int64_t i = 0; i < count; i += W)
      store_codes(codes + r * code_stride + i, (load(rows + r * stride + i) - start) * steps);
  }
}

// Up to W rows on given grids. A row that is not finite gets a scale that is not.
static void quantize_on(Grid* grids, int32_t highest, const float* rows, int64_t stride, int number,
                        int64_t count, uint8_t* codes, int64_t code_stride) {
  const vfloat zero = vfloat{}, most = broadcast((float)highest);
  vfloat worst = vfloat{}, spoiled = vfloat{};
  for (int r = 0; r < number; r++) {
    const float inverse = 1.0f / grids[r].scale, offset = grids[r].offset;
    for (int64_t i = 0; i < count; i += W) {
      const vfloat x = load(rows + r * stride + i);
      const vfloat code = least(greatest((x + offset) * inverse, zero), most);
      worst = greatest(worst, absolute(code - nearest(code)));
      spoiled += x * 0.0f;
      store_codes(codes + r * code_stride + i, code);
    }
  }
  for (int r = 0; r < number && any_above(worst, kNearMiddle); r++)
    for (int64_t i = 0; i < count; i += W) {
      const vfloat code = (load(rows + r * stride + i) + grids[r].offset) / grids[r].scale;
      store_codes(codes + r * code_stride + i, least(greatest(code, zero), most));
    }
  for (int r = 0; r < number && !(sum_lanes(spoiled) == 0); r++) {
    vfloat poison = vfloat{};
    for (int64_t i = 0; i < count; i += W) poison += load(rows + r * stride + i) * 0.0f;
    grids[r].scale += sum_lanes(poison);
  }
}

// One input row of a call as float32, zero up to a multiple of W.
static void read_row(const qmamba_integer_call& call, int64_t index, float outside, float* row) {
  const int64_t inputs = call.first.inputs;
  const bool half = call.x_dtype == QMAMBA_BFLOAT16;
  if (call.side > 0) {
    std::memset(row + inputs / W * W, 0, sizeof(float) * W);
    if (half) copy_patch<bfloat16>(call, index, outside, row);
    else copy_patch<float>(call, index, outside, row);
  } else if (half) {
    copy_row((const bfloat16*)call.x + index * inputs, inputs, row);
  } else {
    copy_row((const float*)call.x + index * inputs, inputs, row);
  }
}

// The input rows [begin, begin + number) of a call as codes; `rows` holds kRowGroup of them.
static void quantize_input(const qmamba_integer_call& call, int64_t begin, int64_t number,
                           float* rows, uint8_t* codes, Grid* grids) {
  const int64_t inputs = call.first.inputs, stride = code_stride(inputs);
  const bool given = call.x_scale;
  if (given)
    for (int64_t r = 0; r < number; r++) {
      const int64_t grid = call.one_grid ? 0 : begin + r;
      grids[r] = {call.x_scale[grid], call.x_offset[grid], 0};
    }
  if (call.x_dtype == QMAMBA_CODES) {
    for (int64_t r = 0; r < number; r++) {
      uint8_t* to = codes + r * stride;
      if (call.side > 0) copy_patch<uint8_t, uint8_t>(call, begin + r, 0, to);
      else std::memcpy(to, (const uint8_t*)call.x + (begin + r) * inputs, inputs);
      std::memset(to + inputs, 0, 4);
    }
  } else {
    const int64_t width = row_stride(inputs);
    // Long rows would not stay in the cache until their codes are taken.
    const int64_t together = std::max<int64_t>(1, std::min<int64_t>(W, 8192 / inputs));
    for (int64_t first = 0; first < number; first += together) {
      const int group = (int)std::min(together, number - first);
      for (int r = 0; r < group; r++)
        read_row(call, begin + first + r, given ? -grids[first + r].offset : 0.0f, rows + r * width);
      if (call.norm_weight) normalize(call, rows, width, group);
      uint8_t* to = codes + first * stride;
      if (given) {
        quantize_on(grids + first, call.highest, rows, width, group, inputs, to, stride);
      } else {
        quantize(rows, width, group, inputs, to, stride, grids + first);
      }
    }
  }
  if (call.first.offset)
    for (int64_t r = 0; r < number; r++) grids[r].sum = sum_codes(codes + r * stride, inputs);
}
