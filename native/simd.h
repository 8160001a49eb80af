// Vectors of W floats through the compiler's vector extensions: the same source becomes SSE2, AVX2,
// AVX-512 or NEON. Included inside a namespace of its own by each variant.

typedef float vfloat __attribute__((vector_size(W * 4)));
typedef int32_t vint __attribute__((vector_size(W * 4)));
typedef uint32_t vuint __attribute__((vector_size(W * 4)));
typedef uint16_t bfloat16;
typedef bfloat16 vbfloat16 __attribute__((vector_size(W * 2)));

#define QMAMBA_INLINE static inline __attribute__((always_inline))
#define QMAMBA_INLINE_MEMBER inline __attribute__((always_inline))

QMAMBA_INLINE vfloat broadcast(float value) { return vfloat{} + value; }

QMAMBA_INLINE vfloat load(const float* p) {
  vfloat v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
QMAMBA_INLINE void store(float* p, vfloat v) { __builtin_memcpy(p, &v, sizeof v); }

QMAMBA_INLINE vfloat load(const bfloat16* p) {
  vbfloat16 half;
  __builtin_memcpy(&half, p, sizeof half);
  return (vfloat)(__builtin_convertvector(half, vuint) << 16);
}
QMAMBA_INLINE void store(bfloat16* p, vfloat v) {
  const vuint bits = (vuint)v;
  const vuint rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  const vuint quiet_nan = vuint{} + 0x7fc0;                          // rounding could wrap a NaN
  const vbfloat16 half = __builtin_convertvector(v == v ? rounded : quiet_nan, vbfloat16);
  __builtin_memcpy(p, &half, sizeof half);
}

// The first `count` lanes; the others read as zero and are not written.
template <class T>
QMAMBA_INLINE vfloat load_part(const T* p, int count) {
  if (count >= W) return load(p);
  T buffer[W] = {};
  for (int i = 0; i < count; i++) buffer[i] = p[i];
  return load(buffer);
}
template <class T>
QMAMBA_INLINE void store_part(T* p, vfloat v, int count) {
  if (count >= W) return store(p, v);
  T buffer[W];
  store(buffer, v);
  for (int i = 0; i < count; i++) p[i] = buffer[i];
}

QMAMBA_INLINE vfloat absolute(vfloat v) { return (vfloat)((vint)v & 0x7fffffff); }

QMAMBA_INLINE float sum_lanes(vfloat v) {
#if W == 16 && defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float total = 0;
  for (int i = 0; i < W; i++) total += v[i];
  return total;
#endif
}

// 2^t. The polynomial is exact at 0, because a decay that is biased near 1 would be amplified by
// 1 / (1 - decay) over a long scan. Relative error below 2e-7.
QMAMBA_INLINE vfloat exp2(vfloat t) {
#if W == 16 && defined(__AVX512F__)
  const __m512 whole = _mm512_roundscale_ps((__m512)t, 0);
  const vfloat part = t - (vfloat)whole;
#else
  const vfloat lowest = broadcast(-126.0f), highest = broadcast(127.0f);
  t = t < lowest ? lowest : t;
  t = t > highest ? highest : t;
  const vfloat shifted = t + 12582912.0f;  // 1.5 * 2^23: the sum's last bits are round(t)
  const vfloat part = t - (shifted - 12582912.0f);
#endif
  vfloat p = broadcast(0.0001534581242594868f);
  p = p * part + 0.0013399930903688073f;
  p = p * part + 0.009618489071726799f;
  p = p * part + 0.05550328642129898f;
  p = p * part + 0.24022646248340607f;
  p = p * part + 0.6931471824645996f;
  p = p * part + 1.0f;
#if W == 16 && defined(__AVX512F__)
  return (vfloat)_mm512_scalef_ps((__m512)p, whole);
#else
  return (vfloat)((vint)p + ((vint)shifted << 23));
#endif
}

// log(1 + e^z) and its derivative from one exponential: with e = exp(-|z|),
// log1p(e) = 2 atanh(e / (2 + e)).
struct Softplus {
  vfloat value, slope;
};
QMAMBA_INLINE Softplus softplus(vfloat z) {
  const vfloat e = exp2(absolute(z) * -1.4426950408889634f);
  const vfloat s = e / (e + 2.0f), q = s * s;
  vfloat p = broadcast(0.14095774292945862f);
  p = p * q + 0.13978832960128784f;
  p = p * q + 0.2001255750656128f;
  p = p * q + 0.33333155512809753f;
  p = p * q + 1.0f;
  const vfloat positive = z > vfloat{} ? z : vfloat{};
  const vfloat reciprocal = 1.0f / (1.0f + e);
  return {positive + (s + s) * p, z >= vfloat{} ? reciprocal : e * reciprocal};
}
