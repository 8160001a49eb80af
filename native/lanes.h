// What vectors do across their lanes, and parts of vectors. Included inside a namespace of its own by
// each variant.

#define QMAMBA_ALWAYS_INLINE __attribute__((always_inline))

#if defined(__clang__)
#define QMAMBA_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define QMAMBA_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, vint{__VA_ARGS__})
#endif

QMAMBA_INLINE vfloat least(vfloat a, vfloat b) {
#if W == 16
  return (vfloat)_mm512_min_ps((__m512)a, (__m512)b);
#elif W == 8
  return (vfloat)_mm256_min_ps((__m256)a, (__m256)b);
#else
  return a < b ? a : b;
#endif
}
QMAMBA_INLINE vfloat greatest(vfloat a, vfloat b) {
#if W == 16
  return (vfloat)_mm512_max_ps((__m512)a, (__m512)b);
#elif W == 8
  return (vfloat)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}

static const int32_t kLane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

QMAMBA_INLINE vint first_lanes(int count) {
  vint lane;
  __builtin_memcpy(&lane, kLane, sizeof lane);
  return lane < count;
}

// The first `count` lanes; the others are zero and no memory beyond is touched.
QMAMBA_INLINE vfloat load_first(const float* p, int count) {
#if W == 16
  return (vfloat)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
#elif W == 8
  return (vfloat)_mm256_maskload_ps(p, (__m256i)first_lanes(count));
#else
  return load_part(p, count);
#endif
}
QMAMBA_INLINE void store_first(float* p, vfloat v, int count) {
#if W == 16
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), (__m512)v);
#elif W == 8
  _mm256_maskstore_ps(p, (__m256i)first_lanes(count), (__m256)v);
#else
  store_part(p, v, count);
#endif
}

// To the nearest whole number, ties to even, of numbers below 2^22.
QMAMBA_INLINE vfloat nearest(vfloat v) { return (v + 12582912.0f) - 12582912.0f; }

// A product with the inverse of a step that is this far from its whole number may lie on the other side
// of the middle between two of them, and is taken again by division.
constexpr float kNearMiddle = 0.4999f;

QMAMBA_INLINE bool any_above(vfloat v, float bound) {
#if W == 16
  return _mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(bound), _CMP_GT_OQ) != 0;
#elif W == 8
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, _mm256_set1_ps(bound), _CMP_GT_OQ)) != 0;
#else
  bool any = false;
  for (int i = 0; i < W; i++) any |= v[i] > bound;
  return any;
#endif
}

QMAMBA_INLINE vfloat square_root(vfloat v) {
#if W == 16
  return (vfloat)_mm512_sqrt_ps((__m512)v);
#elif W == 8
  return (vfloat)_mm256_sqrt_ps((__m256)v);
#else
  for (int i = 0; i < W; i++) v[i] = __builtin_sqrtf(v[i]);
  return v;
#endif
}

struct Sum {
  QMAMBA_INLINE_MEMBER vfloat operator()(vfloat a, vfloat b) const { return a + b; }
};
struct Least {
  QMAMBA_INLINE_MEMBER vfloat operator()(vfloat a, vfloat b) const { return least(a, b); }
};
struct Greatest {
  QMAMBA_INLINE_MEMBER vfloat operator()(vfloat a, vfloat b) const { return greatest(a, b); }
};

// Both vectors with their upper and lower halves of 2 * Half lanes put together: where bit Half of
// the lane is clear it holds results of a, elsewhere results of b.
template <class Operation, int Half, int... Lane>
QMAMBA_INLINE vfloat fold_halves(vfloat a, vfloat b, std::integer_sequence<int, Lane...>) {
#if W == 16
  constexpr __mmask16 upper = (__mmask16)((... | (Lane & Half ? 1 << Lane : 0)));
  const vfloat kept = (vfloat)_mm512_mask_mov_ps((__m512)a, upper, (__m512)b);
#else
  const vfloat kept = QMAMBA_SHUFFLE(a, b, (Lane & Half ? W + Lane : Lane)...);
#endif
  return Operation()(kept,
                     QMAMBA_SHUFFLE(a, b, (Lane & Half ? W + Lane - Half : Lane + Half)...));
}

// Lane i of the result is the sum, or another operation, of the lanes of leaf(i), which is asked for
// as late as possible: few vectors have to be kept beside what the leaves need.
template <class Operation, int First = 0, int Half = 1, class Leaf>
QMAMBA_INLINE vfloat fold_leaves(const Leaf& leaf) {
  if constexpr (Half == W) {
    return leaf(std::integral_constant<int, First>());
  } else {
    const vfloat even = fold_leaves<Operation, First, 2 * Half>(leaf);
    const vfloat odd = fold_leaves<Operation, First + Half, 2 * Half>(leaf);
    return fold_halves<Operation, Half>(even, odd, std::make_integer_sequence<int, W>());
  }
}

// The same of W vectors.
template <class Operation>
QMAMBA_INLINE vfloat fold(const vfloat vectors[W]) {
  return fold_leaves<Operation>(
      [&](auto i) QMAMBA_ALWAYS_INLINE { return vectors[decltype(i)::value]; });
}

// What a layer norm takes from up to W rows of `count` numbers. Each phase goes through all rows,
// because one row alone is a chain of operations that wait for each other. `read(row, i, live)` gives
// the numbers from i on, of which the first `live` lanes are in the row.
template <class Read>
QMAMBA_INLINE vfloat row_means(int64_t number, int64_t count, const Read& read) {
  vfloat totals[W] = {};
  for (int64_t r = 0; r < number; r++)
    for (int64_t i = 0; i < count; i += W)  // lanes behind the row are zero here
      totals[r] += read(r, i, (int)std::min<int64_t>(W, count - i));
  return fold<Sum>(totals) / (float)count;
}
template <class Read>
QMAMBA_INLINE vfloat inverse_deviations(int64_t number, int64_t count, float epsilon,
                                        const float* means, const Read& read) {
  vfloat squares[W] = {};
  for (int64_t r = 0; r < number; r++)
    for (int64_t i = 0; i < count; i += W) {
      const int live = (int)std::min<int64_t>(W, count - i);
      const vfloat centered = read(r, i, live) - means[r];
      const vfloat kept =
          live == W ? centered : (vfloat)((vint)centered & first_lanes(live));
      squares[r] += kept * kept;
    }
  return 1.0f / square_root(fold<Sum>(squares) / (float)count + epsilon);
}
