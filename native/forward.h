// Forward pass: dt projection, softplus, recurrence, output and merge of one task, in registers.
// Included inside a namespace of its own by each variant.

// Addresses of kBlock consecutive steps of one route. Steps after the end repeat the last one and
// padding steps read zeros; both write to a row that nobody reads.
template <class T>
struct Block {
  const T* x[kBlock];
  const float* projected[kBlock];
  const float* delta[kBlock];
  float* output[kBlock];
};

struct Slice {  // the channels of a task
  int64_t first;     // first channel
  int vectors;       // number of W-wide vectors
  int last_count;    // live lanes of the last vector
  int64_t width() const { return (int64_t)vectors * W; }
};

static Slice slice_of(const qmamba_scan& scan, int64_t groups, int64_t group) {
  const int64_t vectors = scan.padded / W;
  const int64_t begin = vectors * group / groups, end = vectors * (group + 1) / groups;
  const int64_t first = begin * W;
  const int64_t live = std::max<int64_t>(0, std::min(scan.channels - first, (end - begin) * W));
  const int64_t used = (live + W - 1) / W;
  return {first, (int)used, used ? (int)(live - (used - 1) * W) : 0};
}

// Where the private accumulator of one task starts in the workspace: groups are contiguous blocks
// of (pixels, width), so that two threads never share a line.
static float* accumulator(const qmamba_scan& scan, int64_t plane, Slice slice) {
  return scan.workspace + (plane * scan.padded + slice.first) * scan.pixels;
}

// What one task owns: all routes of some channels of an image, or one route of them.
struct Task {
  int64_t image, first_route, last_route;
  Slice slice;
  float* sum;  // the private accumulator (pixels, slice width) of a merged scan

  Task(const qmamba_scan& scan, Partition cut, int64_t index) {
    const int64_t split = index % cut.route_splits;
    slice = slice_of(scan, cut.groups, index / cut.route_splits % cut.groups);
    image = index / cut.route_splits / cut.groups;
    first_route = scan.routes * split / cut.route_splits;
    last_route = scan.routes * (split + 1) / cut.route_splits;
    sum = accumulator(scan, image * cut.route_splits + split, slice);
  }
};

static int64_t tasks_of(const qmamba_scan& scan, Partition cut) {
  return scan.batch * cut.groups * cut.route_splits;
}

// Time steps that are taken as they are computed. A quantized network has another such class.
struct AnySteps {
  QMAMBA_INLINE_MEMBER void enter(const int64_t*) {}
  QMAMBA_INLINE_MEMBER vfloat first_term(vfloat bias) const { return bias; }
  QMAMBA_INLINE_MEMBER void finish(vfloat*, vfloat) const {}
};

// The low-rank (or given) time step before softplus, for kBlock steps at once.
template <class T, class Steps>
QMAMBA_INLINE void raw_time_step(const qmamba_scan& scan, const Steps& steps, const Block<T>& block,
                                 int64_t route, int64_t channel, int count, vfloat raw[kBlock]) {
  const vfloat bias = load(scan.dt_bias + route * scan.padded + channel);
  if (scan.delta) {
    for (int t = 0; t < kBlock; t++) raw[t] = bias + load_part(block.delta[t] + channel, count);
    return;
  }
#pragma GCC unroll 8
  for (int t = 0; t < kBlock; t++) raw[t] = steps.first_term(bias);
  const float* weight = scan.dt_weight + route * scan.rank * scan.padded + channel;
  for (int64_t r = 0; r < scan.rank; r++) {
    const vfloat w = load(weight + r * scan.padded);
#pragma GCC unroll 8
    for (int t = 0; t < kBlock; t++) raw[t] += w * block.projected[t][r];
  }
  steps.finish(raw, bias);
}

// One task. An unmerged scan writes each route, skip term included, to its own place in y.
template <int States, class T, class Steps>
static void forward_task(const qmamba_scan& scan, Steps time_steps, const Task& task,
                         float* state) {
  const auto [image, first_route, last_route, slice, sum] = task;
  const int states = States > 0 ? States : (int)scan.states;
  const int64_t row = scan.rank + 2 * scan.states, width = slice.width();
  const int64_t segments = (scan.steps + kSegment - 1) / kSegment;
  float* zeros = state + states * width;  // also a projection row: at least `row` long
  float* nowhere = zeros + std::max(width + slice.first, row) + W;
  std::memset(zeros, 0, sizeof(float) * (std::max(width + slice.first, row) + W));

  for (int64_t route = first_route; route < last_route; route++) {
    const int32_t* order = order_of(scan, image, route);
    const int64_t own = image * scan.routes + route, map = scan.pixels * scan.channels;
    const T* x = (const T*)scan.x + (scan.shared ? image : own) * map;
    const float* delta = scan.delta ? scan.delta + own * map : zeros;
    const float* projected = scan.projected + (image * scan.pixels * scan.routes + route) * row;
    T* y = (T*)scan.y + (scan.merged ? image : own) * map;
    const bool first = route == first_route;
    std::memset(state, 0, sizeof(float) * states * width);

    for (int64_t begin = 0; begin < scan.steps; begin += kBlock) {
      const int live = (int)std::min<int64_t>(kBlock, scan.steps - begin);
      Block<T> block;
      int64_t pixel[kBlock];
      for (int t = 0; t < kBlock; t++) {
        const int64_t p = order[begin + (t < live ? t : live - 1)];
        pixel[t] = t < live ? p : -1;
        block.x[t] = p < 0 ? (const T*)zeros : x + p * scan.channels;
        block.delta[t] = p < 0 ? zeros : delta + p * scan.channels;
        block.projected[t] = p < 0 ? zeros : projected + p * scan.routes * row;
        block.output[t] = pixel[t] < 0 || !scan.merged ? nowhere : sum + p * width;
      }
      time_steps.enter(pixel);
      if (begin + 2 * kBlock <= scan.steps) {
        for (int t = 0; t < kBlock; t++) {  // strided routes defeat the hardware's own prefetch
          const int64_t p = std::max<int64_t>(0, order[begin + kBlock + t]);
          const char* next_x = (const char*)(x + p * scan.channels + slice.first);
          const char* next_sum = (const char*)(sum + p * width);
          for (int64_t j = 0; j < width * (int64_t)sizeof(T); j += 64)
            __builtin_prefetch(next_x + j, 0, 3);
          if (scan.merged)
            for (int64_t j = 0; j < width * 4; j += 64) __builtin_prefetch(next_sum + j, 1, 3);
          __builtin_prefetch(projected + p * scan.routes * row, 0, 3);
        }
      }
      for (int v = 0; v < slice.vectors; v++) {
        const int64_t channel = slice.first + (int64_t)v * W;
        const int count = v + 1 == slice.vectors ? slice.last_count : W;
        if (scan.states_saved && begin % kSegment == 0) {
          float* saved = scan.states_saved +
                         (own * segments + begin / kSegment) * scan.states * scan.padded + channel;
          for (int n = 0; n < states; n++)
            store(saved + n * scan.padded, load(state + n * width + (int64_t)v * W));
        }
        vfloat dt[kBlock], input[kBlock], out[kBlock];
        raw_time_step(scan, time_steps, block, route, channel, count, dt);
        if (scan.softplus) {
#pragma GCC unroll 8
          for (int t = 0; t < kBlock; t++) dt[t] = softplus(dt[t]).value;
        }
        if (count == W) {
#pragma GCC unroll 8
          for (int t = 0; t < kBlock; t++) input[t] = load(block.x[t] + channel);
        } else {
          for (int t = 0; t < kBlock; t++) input[t] = load_part(block.x[t] + channel, count);
        }
        if (!scan.merged) {
          const vfloat skip = load(scan.skip + route * scan.padded + channel);
#pragma GCC unroll 8
          for (int t = 0; t < kBlock; t++) out[t] = input[t] * skip;
        } else {
#pragma GCC unroll 8
          for (int t = 0; t < kBlock; t++) out[t] = vfloat{};
        }
#pragma GCC unroll 8
        for (int t = 0; t < kBlock; t++) input[t] *= dt[t];
        for (int n = 0; n < states; n++) {
          const vfloat decay = load(scan.decay + (route * scan.states + n) * scan.padded + channel);
          float* slot = state + n * width + (int64_t)v * W;
          vfloat h = load(slot);
#pragma GCC unroll 8
          for (int t = 0; t < kBlock; t++) {
            h = exp2(dt[t] * decay) * h + input[t] * block.projected[t][scan.rank + n];
            out[t] += h * block.projected[t][scan.rank + states + n];
          }
          store(slot, h);
        }
        if (!scan.merged) {
          for (int t = 0; t < live; t++)
            if (pixel[t] >= 0) store_part(y + pixel[t] * scan.channels + channel, out[t], count);
        } else if (first) {
#pragma GCC unroll 8
          for (int t = 0; t < kBlock; t++) store(block.output[t] + (int64_t)v * W, out[t]);
        } else {
#pragma GCC unroll 8
          for (int t = 0; t < kBlock; t++) {
            float* target = block.output[t] + (int64_t)v * W;
            store(target, load(target) + out[t]);
          }
        }
      }
    }
  }
}

template <class T>
static void normalize_row(const qmamba_scan& scan, const float* row, float total, T* y) {
  const float mean = total / scan.channels;
  vfloat squares = vfloat{};
  for (int64_t channel = 0; channel < scan.channels; channel += W) {
    const int count = (int)std::min<int64_t>(W, scan.channels - channel);
    const vfloat centered = load(row + channel) - mean;
    float lanes[W] = {};
    store_part(lanes, centered, count);
    squares += count == W ? centered * centered : load(lanes) * load(lanes);
  }
  const float scale =
      1.0f / __builtin_sqrtf(sum_lanes(squares) / scan.channels + scan.norm_epsilon);
  for (int64_t channel = 0; channel < scan.channels; channel += W) {
    const int count = (int)std::min<int64_t>(W, scan.channels - channel);
    const vfloat weight = load_part(scan.norm_weight + channel, count) * scale;
    const vfloat bias = load_part(scan.norm_bias + channel, count);
    store_part(y + channel, (load(row + channel) - mean) * weight + bias, count);
  }
}

// y = sum over routes + skip * x, then the norm if there is one, for the rows [begin, end) of the
// flattened (batch, pixels). Routes are added in their order whether they were split or not, so the
// bits do not depend on the split. `sums` holds one row.
template <class T>
static void merge_rows(const qmamba_scan& scan, Partition cut, int64_t begin, int64_t end,
                       float* sums) {
  for (int64_t r = begin; r < end; r++) {
    const int64_t image = r / scan.pixels, pixel = r % scan.pixels;
    const T* x = (const T*)scan.x + r * scan.channels;
    T* y = (T*)scan.y + r * scan.channels;
    vfloat total = vfloat{};
    for (int64_t group = 0; group < cut.groups; group++) {
      const Slice slice = slice_of(scan, cut.groups, group);
      for (int v = 0; v < slice.vectors; v++) {
        const int64_t channel = slice.first + (int64_t)v * W;
        const int count = v + 1 == slice.vectors ? slice.last_count : W;
        vfloat sum = vfloat{};
        for (int64_t split = 0; split < cut.route_splits; split++)
          sum += load(accumulator(scan, image * cut.route_splits + split, slice) +
                      pixel * slice.width() + (int64_t)v * W);
        sum += load_part(x + channel, count) * load(scan.skip + channel);
        if (scan.norm_weight) {
          store(sums + channel, sum);  // dead lanes are zero: x, the accumulator and skip are
          total += sum;
        } else {
          store_part(y + channel, sum, count);
        }
      }
    }
    if (scan.norm_weight) normalize_row(scan, sums, sum_lanes(total), y);
  }
}
