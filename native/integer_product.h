// Products of rows of codes with a packed weight, exact in 32 bits, then scale, bias and activation.
// Included inside a namespace of its own by each variant.

// Rows times the kPanel outputs of a panel: sums (Rows, kPanel). Rows of codes are `stride` apart.
#if W == 16 && defined(__AVX512VNNI__)

constexpr int kTile = 12;

template <int Rows>
static void multiply(const uint8_t* codes, int64_t stride, const int8_t* panel, int64_t quads,
                     int32_t* sums) {
  __m512i total[Rows][2];
#pragma GCC unroll 12
  for (int r = 0; r < Rows; r++) total[r][0] = total[r][1] = _mm512_setzero_si512();
  for (int64_t q = 0; q < quads; q++) {
    const __m512i w0 = _mm512_loadu_si512(panel + q * 128);
    const __m512i w1 = _mm512_loadu_si512(panel + q * 128 + 64);
#pragma GCC unroll 12
    for (int r = 0; r < Rows; r++) {
      int32_t four;
      __builtin_memcpy(&four, codes + r * stride + 4 * q, 4);
      const __m512i x = _mm512_set1_epi32(four);
      total[r][0] = _mm512_dpbusd_epi32(total[r][0], x, w0);
      total[r][1] = _mm512_dpbusd_epi32(total[r][1], x, w1);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < Rows; r++) {
    _mm512_storeu_si512(sums + r * kPanel, total[r][0]);
    _mm512_storeu_si512(sums + r * kPanel + 16, total[r][1]);
  }
}

#elif W == 8 && defined(__AVXVNNI__)

constexpr int kTile = 3;

template <int Rows>
static void multiply(const uint8_t* codes, int64_t stride, const int8_t* panel, int64_t quads,
                     int32_t* sums) {
  __m256i total[Rows][4];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) total[r][v] = _mm256_setzero_si256();
  for (int64_t q = 0; q < quads; q++) {
    __m256i x[Rows];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; r++) {
      int32_t four;
      __builtin_memcpy(&four, codes + r * stride + 4 * q, 4);
      x[r] = _mm256_set1_epi32(four);
    }
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
      const __m256i w = _mm256_loadu_si256((const __m256i*)(panel + q * 128 + 32 * v));
#pragma GCC unroll 4
      for (int r = 0; r < Rows; r++) total[r][v] = _mm256_dpbusd_avx_epi32(total[r][v], x[r], w);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++)
      _mm256_storeu_si256((__m256i*)(sums + r * kPanel + 8 * v), total[r][v]);
}

#else

typedef int8_t vcodes __attribute__((vector_size(W * 2)));
typedef int16_t vshort __attribute__((vector_size(W * 4)));

// Products of 16-bit numbers, neighboring ones added.
QMAMBA_INLINE vint add_products(vshort a, vshort b) {
#if defined(__AVX512BW__)
  return (vint)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (vint)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (vint)__builtin_ia32_pmaddwd128(a, b);
#else
  const vint low = ((vint)a << 16 >> 16) * ((vint)b << 16 >> 16);
  return low + ((vint)a >> 16) * ((vint)b >> 16);
#endif
}

constexpr int kTile = W == 16 ? 6 : 3;
constexpr int kGroup = W / 2 * 4;  // outputs of four vectors, each of W / 2 outputs x 4 inputs

template <int Rows>
static void multiply(const uint8_t* codes, int64_t stride, const int8_t* panel, int64_t quads,
                     int32_t* sums) {
  for (int first = 0; first < kPanel; first += kGroup) {
    vint total[Rows][4] = {};
    for (int64_t q = 0; q < quads; q++) {
      vshort x[Rows];
#pragma GCC unroll 12
      for (int r = 0; r < Rows; r++) {
        const uint8_t* four = codes + r * stride + 4 * q;
        const uint64_t wide = four[0] | (uint64_t)four[1] << 16 | (uint64_t)four[2] << 32 |
                              (uint64_t)four[3] << 48;
        typedef uint64_t vwide __attribute__((vector_size(W * 4)));
        x[r] = (vshort)(vwide{} + wide);
      }
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) {
        vcodes narrow;
        __builtin_memcpy(&narrow, panel + (q * kPanel + first + v * (W / 2)) * 4, sizeof narrow);
        const vshort w = __builtin_convertvector(narrow, vshort);
#pragma GCC unroll 12
        for (int r = 0; r < Rows; r++) total[r][v] += add_products(x[r], w);
      }
    }
    for (int r = 0; r < Rows; r++)
      for (int v = 0; v < 4; v++)
        for (int i = 0; i < W / 2; i++)
          sums[r * kPanel + first + v * (W / 2) + i] = total[r][v][2 * i] + total[r][v][2 * i + 1];
  }
}

#endif

// How many rows one call of multiply takes: tiles of nearly equal size.
template <int Rows>
static void multiply_rows(int rows, const uint8_t* codes, int64_t stride, const int8_t* panel,
                          int64_t quads, int32_t* sums) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return multiply_rows<Rows - 1>(rows, codes, stride, panel, quads, sums);
  }
  multiply<Rows>(codes, stride, panel, quads, sums);
}

// x times the normal distribution function of x, by a polynomial within 5e-5: far below a step of
// the 8 bits around it.
QMAMBA_INLINE vfloat gelu(vfloat x) {
  const vfloat end = broadcast(4.5f);
  vfloat z = x > end ? end : x;
  z = z < -end ? -end : z;
  const vfloat s = z * z;
  vfloat p = broadcast(-9.763835790224662e-13f);
  p = p * s + 1.2853937358947576e-10f;
  p = p * s + -7.500116971925763e-09f;
  p = p * s + 2.575695532414102e-07f;
  p = p * s + -5.845325176778715e-06f;
  p = p * s + 9.354984649689868e-05f;
  p = p * s + -0.0011011285241693258f;
  p = p * s + 0.00977287720888853f;
  p = p * s + -0.0662551149725914f;
  p = p * s + 0.398845911026001f;
  return x * (z * p + 0.5f);
}

// Rows of codes through one layer: y (rows, outputs), its rows `y_stride` apart. `R` is the type of
// the residual, of the shape of the result, or void where there is none.
template <class T, class R>
struct Layer {
  const qmamba_integer_layer& layer;
  const Grid* grids;
  bool activate;
  R* residual;
  const float* residual_scale;  // or null
  T* y;
  int64_t y_stride;

  // Scale, bias, activation and residual of up to W outputs of the rows [begin, end).
  inline __attribute__((always_inline)) void finish(const int32_t* sums, int64_t begin, int64_t end, int64_t output,
                            int count) const {
    const vfloat scale = load(layer.scale + output), bias = load(layer.bias + output);
    const vfloat weights = load(layer.sums + output);
    const vfloat offset = layer.offset ? load(layer.offset + output) : vfloat{};
    const vfloat factor = residual_scale ? load_part(residual_scale + output, count)
                                         : broadcast(1.0f);
    for (int64_t r = begin; r < end; r++, sums += kPanel) {
      vint whole;
      __builtin_memcpy(&whole, sums, sizeof whole);
      vfloat value = __builtin_convertvector(whole, vfloat) * scale;
      if (layer.offset) value -= offset * grids[r].sum;
      value = value * grids[r].scale + (bias - weights * grids[r].offset);
      if (activate) value = gelu(value);
      if constexpr (!std::is_same_v<R, const void>)
        value += load_part(residual + r * layer.outputs + output, count) * factor;
      store_part(y + r * y_stride + output, value, count);
    }
  }

  void run(const uint8_t* codes, int64_t stride, int64_t rows) const {
    const int64_t quads = (layer.inputs + 3) / 4;
    const int64_t tiles = (rows + kTile - 1) / kTile;
    alignas(64) int32_t sums[kTile * kPanel];
    for (int64_t first = 0; first < layer.outputs; first += kPanel) {
      const int8_t* panel = layer.codes + first * quads * 4;
      const int64_t live = std::min(kPanel, layer.outputs - first);
      for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t begin = rows * tile / tiles, end = rows * (tile + 1) / tiles;
        multiply_rows<kTile>((int)(end - begin), codes + begin * stride, stride, panel, quads,
                             sums);
        int64_t v = 0;
        for (; v + W <= live; v += W) finish(sums + v, begin, end, first + v, W);
        if (v < live) finish(sums + v, begin, end, first + v, (int)(live - v));
      }
    }
  }
};

template <class T>
static void apply_layer(const qmamba_integer_layer& layer, const uint8_t* codes, int64_t stride,
                        const Grid* grids, int64_t rows, bool activate, const void* residual,
                        int32_t residual_dtype, const float* scale, T* y, int64_t y_stride) {
  auto run = [&](auto* of) {
    using R = std::remove_pointer_t<decltype(of)>;
    Layer<T, R>{layer, grids, activate, of, scale, y, y_stride}.run(codes, stride, rows);
  };
  if (!residual) run((const void*)nullptr);
  else if (residual_dtype == QMAMBA_BFLOAT16) run((const bfloat16*)residual);
  else run((const float*)residual);
}
