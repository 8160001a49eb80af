// Grids from statistics, and numbers onto grids. Included inside a namespace of its own by each
// variant.

// Whole numbers from 0 to 255 to bytes; `count` of them are written.
QMAMBA_INLINE void store_bytes(uint8_t* p, vfloat v, int count) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: the sum's last bits are the number
  const vuint numbers = (vuint)(v + kShift) & 0xff;
#if W == 16
  _mm_mask_storeu_epi8(p, (__mmask16)((1u << count) - 1),
                       _mm512_cvtepi32_epi8((__m512i)numbers));
#else
  for (int i = 0; i < count; i++) p[i] = (uint8_t)numbers[i];
#endif
}

// Whole numbers below 2^22 as integers.
QMAMBA_INLINE vint whole_numbers(vfloat v) {
  return (vint)(v + 12582912.0f) & 0x3fffff;  // from 1.5 * 2^23 on, the last bits count
}

// A grid as vector code needs it.
struct Levels {
  float inverse, scale, offset, lowest, highest, first, last;
  Levels(const qmamba_grid_rule& rule, int64_t image)
      : Levels(rule.grids[image], rule.first, rule.last) {}
  Levels(const qmamba_grid& grid, int64_t first, int64_t last)
      : inverse(1.0f / grid.scale), scale(grid.scale), offset(grid.offset), lowest(grid.lowest),
        highest(grid.highest), first((float)first), last((float)last) {}

  // The code of a quotient. A product with the inverse may end up on the other side of the middle
  // between two codes, and products of codes with codes do lie there, so those are divided again.
  QMAMBA_INLINE_MEMBER vfloat code(vfloat x) const {
    const vfloat shifted = x + offset;
    const vfloat steps = inside(shifted * inverse), found = nearest(steps);
    if (__builtin_expect(any_above(absolute(steps - found), kNearMiddle), 0))
      return nearest(inside(shifted / scale));
    return found;
  }
  // Levels in place of numbers, with one test for all of them.
  QMAMBA_INLINE_MEMBER void place(vfloat values[kBlock]) const {
    vfloat found[kBlock], worst = vfloat{};
#pragma GCC unroll 8
    for (int t = 0; t < kBlock; t++) {
      const vfloat steps = inside((values[t] + offset) * inverse);
      found[t] = nearest(steps);
      worst = greatest(worst, absolute(steps - found[t]));
    }
    if (__builtin_expect(any_above(worst, kNearMiddle), 0))
      for (int t = 0; t < kBlock; t++) found[t] = code(values[t]);
#pragma GCC unroll 8
    for (int t = 0; t < kBlock; t++) values[t] = level(found[t]);
  }
  QMAMBA_INLINE_MEMBER vfloat inside(vfloat steps) const {
    return least(greatest(steps, broadcast(first)), broadcast(last));
  }
  QMAMBA_INLINE_MEMBER vfloat level(vfloat code) const {
    const vfloat value = code * scale - offset;
    return least(greatest(value, broadcast(lowest)), broadcast(highest));
  }
  QMAMBA_INLINE_MEMBER vfloat value(vfloat x) const { return level(code(x)); }
};

// The values of a constant.
static void read_constant(const qmamba_constant& constant, int64_t count, float* values) {
  const qmamba_grid& grid = constant.grid;
  for (int64_t i = 0; i < count; i++) {
    const float level = (float)constant.codes[i] * grid.scale - grid.offset;
    values[i] = std::min(std::max(level, grid.lowest), grid.highest);
  }
}

// Sums of many numbers: in float for a while, then in double. They are taken less a pivot, one of
// the numbers themselves, which may therefore stand in dead lanes.
class Moments {
 public:
  explicit Moments(float pivot)
      : pivot_(pivot), sum_{}, squares_{}, low_(broadcast(pivot)), high_(broadcast(pivot)) {}

  QMAMBA_INLINE_MEMBER void add(vfloat v) {
    const vfloat centered = v - pivot_;
    sum_ += centered;
    squares_ += centered * centered;
    low_ = least(low_, v);
    high_ = greatest(high_, v);
  }
  QMAMBA_INLINE_MEMBER void add_first(vfloat v, int count) {
    add(count >= W ? v : first_lanes(count) ? v : broadcast(pivot_));
  }
  void flush() {
    total_ += (double)sum_lanes(sum_);
    total_squares_ += (double)sum_lanes(squares_);
    sum_ = squares_ = vfloat{};
  }
  void finish(double* partial) {
    flush();
    partial[0] = total_;
    partial[1] = total_squares_;
    partial[2] = low_[0];
    partial[3] = high_[0];
    for (int i = 1; i < W; i++) {
      partial[2] = std::min<double>(partial[2], low_[i]);
      partial[3] = std::max<double>(partial[3], high_[i]);
    }
  }

 private:
  float pivot_;
  vfloat sum_, squares_, low_, high_;
  double total_ = 0, total_squares_ = 0;
};

constexpr int64_t kFlushRows = 32;

// The grid that DLS takes for an image, from the sums of its parts.
static qmamba_grid dynamic_grid(const double* partial, double count, float pivot,
                                const qmamba_grid_rule& rule) {
  double sum = 0, squares = 0, low = partial[2], high = partial[3];
  for (int64_t part = 0; part < kParts; part++, partial += 4) {
    sum += partial[0];
    squares += partial[1];
    low = std::min(low, partial[2]);
    high = std::max(high, partial[3]);
  }
  const double copies = (double)rule.copies;
  const double power = std::max(0.0, squares - sum * sum / count) * copies;
  const double mean = pivot + sum / count;
  const double deviation = __builtin_sqrt(power / std::max(count * copies - 1, 1.0));
  const float *step = rule.weights, *shift = rule.weights + 4;
  const double offset = shift[0] * mean + shift[1] * deviation + shift[2] * low + shift[3] * high;
  const double length = step[0] * __builtin_fabs(mean + offset) + step[1] * deviation +
                        step[2] * (low + offset) + step[3] * (high + offset);
  const double widest = std::max((high - low) / (double)(int64_t{1} << rule.bits), 1e-12);
  const double narrowest = std::max(widest * 1e-3, 1e-12);
  const double scale = std::min(std::max(__builtin_fabs(length), narrowest), widest);
  return {(float)scale, (float)offset, (float)low, (float)high};
}

static void operand_moments(const qmamba_operand& call, int64_t image, int64_t part) {
  const float* x = call.x + image * call.image_stride;
  Moments moments(x[0]);
  const int64_t begin = call.rows * part / kParts, end = call.rows * (part + 1) / kParts;
  const int64_t flush = std::max<int64_t>(1, kFlushRows * 64 / std::max<int64_t>(call.count, 1));
  for (int64_t row = begin; row < end; row++) {
    const float* p = x + row * call.row_stride;
    int64_t i = 0;
    for (; i + W <= call.count; i += W) moments.add(load(p + i));
    if (i < call.count) {
      const int count = (int)(call.count - i);
      moments.add_first(load_first(p + i, count), count);
    }
    if ((row - begin) % flush == flush - 1) moments.flush();
  }
  moments.finish(call.partial + (image * kParts + part) * 4);
}

static void operand_codes(const qmamba_operand& call, int64_t image, int64_t part) {
  const Levels levels(call.rule, image);
  const float* x = call.x + image * call.image_stride;
  const int64_t begin = call.rows * part / kParts, end = call.rows * (part + 1) / kParts;
  if (part == 0 && call.codes) {
    call.code_scale[image] = levels.scale;
    call.code_offset[image] = levels.offset - levels.first * levels.scale;
  }
  for (int64_t row = begin; row < end; row++) {
    const float* p = x + row * call.row_stride;
    float* values = call.values;
    if (values) values += image * call.image_stride + row * call.row_stride;
    uint8_t* codes = call.codes;
    if (codes) codes += (image * call.rows + row) * call.count;
    for (int64_t i = 0; i < call.count; i += W) {
      const int count = (int)std::min<int64_t>(W, call.count - i);
      const vfloat v = load_first(p + i, count);
      if (values) store_first(values + i, levels.value(v), count);
      if (codes) store_bytes(codes + i, levels.code(v) - levels.first, count);
    }
  }
}
