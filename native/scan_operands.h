// The operands of a scan onto their grids, in place: x, and the low-rank steps, B and C of all routes,
// which lie side by side in the projected rows. Included inside a namespace of its own by each
// variant.

// What the columns of a projected row are.
enum Column { kLow, kB, kC };
static Column column_of(const qmamba_scan_operands& call, int64_t column) {
  const int64_t place = column % (call.rank + 2 * call.states) - call.rank;
  return place < 0 ? kLow : place < call.states ? kB : kC;
}
static const qmamba_grid_rule& rule_of(const qmamba_scan_operands& call, Column column) {
  return column == kLow ? call.low : call.operands[column == kB ? QMAMBA_B : QMAMBA_C];
}

// Rows of a map onto a grid for each column.
class RowGrids {
 public:
  // Those columns of a projected row that `chosen` says.
  template <class Chosen>
  RowGrids(const qmamba_scan_operands& call, int64_t image, Chosen chosen)
      : count_(call.routes * (call.rank + 2 * call.states)), stride_((count_ + W - 1) / W * W),
        numbers_(new float[kNumbers * stride_]()) {
    for (int64_t i = 0; i < count_; i++) {
      const Column column = column_of(call, i);
      if (chosen(column)) set(i, Levels(rule_of(call, column), image));
    }
  }
  // All columns of x.
  RowGrids(const Levels& levels, int64_t count)
      : count_(count), stride_((count_ + W - 1) / W * W), numbers_(new float[kNumbers * stride_]()) {
    for (int64_t i = 0; i < count_; i++) set(i, levels);
  }

  // Each column down all rows.
  void place(float* first, int64_t rows) const {
    for (int64_t i = 0; i < count_; i += W) {
      const vfloat inverse = of(kInverse, i), scale = of(kScale, i), offset = of(kOffset, i);
      const vfloat low = of(kFirst, i), high = of(kLast, i), lowest = of(kLowest, i);
      const vfloat highest = of(kHighest, i);
      const vint kept = inverse == vfloat{};
      const int live = (int)std::min<int64_t>(W, count_ - i);
      float* p = first + i;
      for (int64_t row = 0; row < rows; row++, p += count_) {
        const vfloat v = load_first(p, live), shifted = v + offset;
        const vfloat steps = least(greatest(shifted * inverse, low), high);
        vfloat code = nearest(steps);
        if (__builtin_expect(any_above(absolute(steps - code), kNearMiddle), 0))
          code = nearest(least(greatest(shifted / scale, low), high));
        const vfloat level = least(greatest(code * scale - offset, lowest), highest);
        store_first(p, kept ? v : level, live);
      }
    }
  }

 private:
  enum { kInverse, kScale, kOffset, kLowest, kHighest, kFirst, kLast, kNumbers };

  void set(int64_t i, const Levels& levels) {
    const float numbers[kNumbers] = {levels.inverse, levels.scale, levels.offset, levels.lowest,
                                     levels.highest, levels.first, levels.last};
    for (int k = 0; k < kNumbers; k++) numbers_[k * stride_ + i] = numbers[k];
  }
  vfloat of(int number, int64_t i) const { return load(numbers_.get() + number * stride_ + i); }

  int64_t count_, stride_;
  std::unique_ptr<float[]> numbers_;
};

// Moments of B and C, column by column until the end.
class ColumnMoments {
 public:
  ColumnMoments(const qmamba_scan_operands& call, const float* pivots)
      : call_(call), count_(call.routes * (call.rank + 2 * call.states)),
        stride_((count_ + W - 1) / W * W), pivots_(new float[stride_]()),
        sums_(new double[2 * stride_]()), ends_(new float[2 * stride_]()) {
    for (int64_t i = 0; i < count_; i++) {
      const Column column = column_of(call, i);
      pivots_[i] = column == kB ? pivots[QMAMBA_B] : column == kC ? pivots[QMAMBA_C] : 0;
      ends_[i] = ends_[stride_ + i] = pivots_[i];
    }
  }

  void add(const float* first, int64_t rows) {
    for (int64_t i = 0; i < count_; i += W) {
      const vfloat pivot = load(pivots_.get() + i);
      vfloat sum = vfloat{}, squares = vfloat{};
      vfloat low = load(ends_.get() + i), high = load(ends_.get() + stride_ + i);
      const int live = (int)std::min<int64_t>(W, count_ - i);
      const float* p = first + i;
      for (int64_t row = 0; row < rows; row++, p += count_) {
        const vfloat v = load_first(p, live), centered = v - pivot;
        sum += centered;
        squares += centered * centered;
        low = least(low, v);
        high = greatest(high, v);
      }
      store(ends_.get() + i, low);
      store(ends_.get() + stride_ + i, high);
      for (int lane = 0; lane < live; lane++) {
        sums_[i + lane] += (double)sum[lane];
        sums_[stride_ + i + lane] += (double)squares[lane];
      }
    }
  }

  void finish(Column wanted, float pivot, double* partial) const {
    partial[0] = partial[1] = 0;
    partial[2] = partial[3] = pivot;
    for (int64_t i = 0; i < count_; i++) {
      if (column_of(call_, i) != wanted) continue;
      partial[0] += sums_[i];
      partial[1] += sums_[stride_ + i];
      partial[2] = std::min<double>(partial[2], ends_[i]);
      partial[3] = std::max<double>(partial[3], ends_[stride_ + i]);
    }
  }

 private:
  const qmamba_scan_operands& call_;
  int64_t count_, stride_;
  std::unique_ptr<float[]> pivots_;
  std::unique_ptr<double[]> sums_;
  std::unique_ptr<float[]> ends_;
};

// Rows that stay in the cache from one pass to the next.
constexpr int64_t kRowsTogether = 32;

template <class Body>
QMAMBA_INLINE void each_rows(const qmamba_scan_operands& call, int64_t image, int64_t part,
                             Body body) {
  const int64_t begin = call.pixels * part / kParts, end = call.pixels * (part + 1) / kParts;
  const int64_t columns = call.routes * (call.rank + 2 * call.states);
  for (int64_t first = begin; first < end; first += kRowsTogether) {
    const int64_t pixel = image * call.pixels + first;
    body(call.x + pixel * call.channels, call.projected + pixel * columns,
         std::min(kRowsTogether, end - first));
  }
}

// The low-rank steps onto their grid, and the moments of all operands whose grids follow the image.
// `pivots` are those of x, the steps, B and C.
static void scan_moments(const qmamba_scan_operands& call, int64_t image, int64_t part,
                         const float* pivots) {
  const int64_t columns = call.rank + 2 * call.states, stride = call.routes * columns;
  const RowGrids low(call, image, [](Column column) { return column == kLow; });
  const bool follows_x = call.operands[QMAMBA_X].weights != nullptr;
  const bool follows_steps = call.operands[QMAMBA_STEPS].weights != nullptr;
  const bool follows_rows = call.operands[QMAMBA_B].weights || call.operands[QMAMBA_C].weights;
  Moments x(pivots[QMAMBA_X]), steps(pivots[QMAMBA_STEPS]);
  ColumnMoments others(call, pivots);
  each_rows(call, image, part, [&](const float* maps, float* projected, int64_t rows) {
    if (follows_x) {
      Moments sums = x;
      for (int64_t i = 0; i < call.channels; i += W) {
        const int count = (int)std::min<int64_t>(W, call.channels - i);
        const float* p = maps + i;
        if (count == W)
          for (int64_t row = 0; row < rows; row++) sums.add(load(p + row * call.channels));
        else
          for (int64_t row = 0; row < rows; row++)
            sums.add_first(load_first(p + row * call.channels, count), count);
      }
      sums.flush();
      x = sums;
    }
    low.place(projected, rows);
    if (follows_rows) others.add(projected, rows);
    for (int64_t route = 0; route < call.routes && follows_steps; route++) {
      Moments sums = steps;
      for (int64_t first = 0; first < rows; first += kBlock) {
        const int live = (int)std::min<int64_t>(kBlock, rows - first);
        const float* row[kBlock];
        for (int t = 0; t < kBlock; t++)
          row[t] = projected + (first + (t < live ? t : 0)) * stride + route * columns;
        add_steps(call.weights + route * call.rank * call.padded, call.rank, call.padded,
                  call.channels, row, live, sums);
      }
      sums.flush();
      steps = sums;
    }
  });
  auto partial = [&](int which) {
    return call.partial + ((which * call.batch + image) * kParts + part) * 4;
  };
  x.finish(partial(QMAMBA_X));
  steps.finish(partial(QMAMBA_STEPS));
  others.finish(kB, pivots[QMAMBA_B], partial(QMAMBA_B));
  others.finish(kC, pivots[QMAMBA_C], partial(QMAMBA_C));
}

// x, B and C onto the grids that were found.
static void place_operands(const qmamba_scan_operands& call, int64_t image, int64_t part) {
  const RowGrids columns(call, image, [](Column column) { return column != kLow; });
  const RowGrids channels(Levels(call.operands[QMAMBA_X], image), call.channels);
  each_rows(call, image, part, [&](float* maps, float* projected, int64_t rows) {
    channels.place(maps, rows);
    columns.place(projected, rows);
  });
}
