// The scan of quantized operands with exponentials that are computed: for steps whose tables would be
// too large, and for few states, where a row of a table would be too short for a vector. Everything
// but the steps is forward.h. Included inside a namespace of its own by each variant.

// Time steps on their grid.
class GridSteps {
 public:
  explicit GridSteps(const Levels& levels) : levels_(levels) {}

  QMAMBA_INLINE_MEMBER void enter(const int64_t pixel[kBlock]) {
    pixel_ = pixel;
    padded_ = false;
    for (int t = 0; t < kBlock; t++) padded_ |= pixel[t] < 0;
  }
  QMAMBA_INLINE_MEMBER vfloat first_term(vfloat) const { return vfloat{}; }
  QMAMBA_INLINE_MEMBER void finish(vfloat raw[kBlock], vfloat bias) const {
    levels_.place(raw);
#pragma GCC unroll 8
    for (int t = 0; t < kBlock; t++) raw[t] += bias;
    // The step of padding is 0 before its bias, and 0 need not be a level.
    if (__builtin_expect(padded_, 0))
      for (int t = 0; t < kBlock; t++)
        if (pixel_[t] < 0) raw[t] = bias;
  }

 private:
  const Levels levels_;
  const int64_t* pixel_ = nullptr;
  bool padded_ = false;
};

static void computed_task(const qmamba_quantized_scan& call, const Task& task) {
  const qmamba_scan& scan = call.scan;
  const int64_t row = scan.rank + 2 * scan.states;
  std::unique_ptr<float[]> state(new float[(scan.states + 3) * scan.padded + 2 * row + 4 * W]);
  const GridSteps steps(Levels(call.steps, task.image));
#define QMAMBA_COMPUTED_TASK(n) \
  forward_task<n, float>(scan, steps, task, state.get())
  switch (scan.states) {
    case 1: QMAMBA_COMPUTED_TASK(1); break;
    case 16: QMAMBA_COMPUTED_TASK(16); break;
    default: QMAMBA_COMPUTED_TASK(0);
  }
#undef QMAMBA_COMPUTED_TASK
}
