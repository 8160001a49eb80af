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

// The vector with every lane from `count` on set to zero.
QMAMBA_INLINE vfloat keep(vfloat v, int64_t count) {
  vint lane;
  for (int i = 0; i < W; i++) lane[i] = i;
  return lane < (int32_t)count ? v : vfloat{};
}

// Layer norm of up to kRowGroup rows that are zero after `count`, and stay so. Each phase goes
// through all rows, because one row alone is a chain of operations that wait for each other.
static void normalise(const qmamba_integer_call& call, float* rows, int64_t stride, int number) {
  const int64_t count = call.first.inputs, whole = count / W * W;
  float mean[kRowGroup], scale[kRowGroup];
  for (int r = 0; r < number; r++) {
    vfloat total = vfloat{};
    for (int64_t i = 0; i < count; i += W) total += load(rows + r * stride + i);
    mean[r] = sum_lanes(total) / count;
  }
  for (int r = 0; r < number; r++) {
    const float* row = rows + r * stride;
    vfloat squares = vfloat{};
    for (int64_t i = 0; i < whole; i += W) {
      const vfloat centred = load(row + i) - mean[r];
      squares += centred * centred;
    }
    if (whole < count) {
      const vfloat centred = keep(load(row + whole) - mean[r], count - whole);
      squares += centred * centred;
    }
    scale[r] = 1.0f / __builtin_sqrtf(sum_lanes(squares) / count + call.norm_epsilon);
  }
  for (int r = 0; r < number; r++) {
    float* row = rows + r * stride;
    for (int64_t i = 0; i < whole; i += W) {
      const vfloat weight = load(call.norm_weight + i) * scale[r];
      store(row + i, (load(row + i) - mean[r]) * weight + load(call.norm_bias + i));
    }
    if (whole < count) {
      const int rest = (int)(count - whole);
      const vfloat weight = load_part(call.norm_weight + whole, rest) * scale[r];
      const vfloat bias = load_part(call.norm_bias + whole, rest);
      store(row + whole, (load(row + whole) - mean[r]) * weight + bias);
    }
  }
}

static float sum_codes(const uint8_t* codes, int64_t count) {
  int64_t sum = 0;
  for (int64_t i = 0; i < count; i++) sum += codes[i];
  return (float)sum;
}

QMAMBA_INLINE float least_lane(vfloat v) {
#if W == 16 && defined(__AVX512F__)
  return _mm512_reduce_min_ps((__m512)v);
#else
  float least = v[0];
  for (int i = 1; i < W; i++) least = v[i] < least ? v[i] : least;
  return least;
#endif
}

// Rows, zero up to a multiple of W, each on the grid of 256 steps between its least and greatest
// value, zero included. A row that is not finite gets a scale that is not, and so does the result.
static void quantise(const float* rows, int64_t stride, int number, int64_t count, uint8_t* codes,
                     int64_t code_stride, Grid* grids) {
  float least[kRowGroup], steps[kRowGroup];
  for (int r = 0; r < number; r++) {
    vfloat low = vfloat{}, high = vfloat{}, poison = vfloat{};
    for (int64_t i = 0; i < count; i += W) {
      const vfloat x = load(rows + r * stride + i);
      low = x < low ? x : low;
      high = x > high ? x : high;
      poison += x * 0.0f;
    }
    least[r] = least_lane(low);
    const float range = -least_lane(-high) - least[r];
    steps[r] = range > 0 ? 255.0f / range : 0.0f;
    grids[r] = {range / 255.0f + sum_lanes(poison), -least[r], 0};
  }
  for (int r = 0; r < number; r++)
    for (int64_t i = 0; i < count; i += W) {
      const vfloat x = load(rows + r * stride + i);
      const vfloat shifted = (x - least[r]) * steps[r] + 12582912.0f;  // 1.5 * 2^23
      typedef uint8_t vbytes __attribute__((vector_size(W)));
      const vbytes bytes = __builtin_convertvector((vuint)shifted & 0xff, vbytes);
      __builtin_memcpy(codes + r * code_stride + i, &bytes, sizeof bytes);
    }
}

// Rows on given grids. A row that is not finite gets a poison that is not.
static void quantise_on(const Grid* grids, int32_t highest, const float* rows, int64_t stride,
                        int number, int64_t count, uint8_t* codes, int64_t code_stride,
                        float* poison) {
  const vfloat zero = vfloat{}, most = broadcast((float)highest);
  for (int r = 0; r < number; r++) {
    vfloat spoilt = vfloat{};
    for (int64_t i = 0; i < count; i += W) {
      const vfloat x = load(rows + r * stride + i);
      vfloat code = (x + grids[r].offset) / grids[r].scale;
      code = code > zero ? code : zero;
      code = code < most ? code : most;
      spoilt += x * 0.0f;
      typedef uint8_t vbytes __attribute__((vector_size(W)));
      const vuint bits = (vuint)(code + 12582912.0f);  // 1.5 * 2^23
      const vbytes bytes = __builtin_convertvector(bits & 0xff, vbytes);
      __builtin_memcpy(codes + r * code_stride + i, &bytes, sizeof bytes);
    }
    poison[r] = sum_lanes(spoilt);
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
static void quantise_input(const qmamba_integer_call& call, int64_t begin, int64_t number,
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
    for (int64_t first = 0; first < number; first += kRowGroup) {
      const int group = (int)std::min(kRowGroup, number - first);
      for (int r = 0; r < group; r++)
        read_row(call, begin + first + r, given ? -grids[first + r].offset : 0.0f, rows + r * width);
      if (call.norm_weight) normalise(call, rows, width, group);
      uint8_t* to = codes + first * stride;
      if (given) {
        float poison[kRowGroup];
        quantise_on(grids + first, call.highest, rows, width, group, inputs, to, stride, poison);
        for (int r = 0; r < group; r++) grids[first + r].scale += poison[r];
      } else {
        quantise(rows, width, group, inputs, to, stride, grids + first);
      }
    }
  }
  if (call.first.offset)
    for (int64_t r = 0; r < number; r++) grids[r].sum = sum_codes(codes + r * stride, inputs);
}
