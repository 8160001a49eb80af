// Backward pass. Nothing of size (steps x states) is kept: from the states saved every kSegment
// steps each segment is run forward once more into a small buffer and then walked back.
// Included inside a namespace of its own by each variant.

// Buffers of one thread; every entry is one vector.
struct Tape {
  float* dt;        // (kSegment)
  float* slope;     // (kSegment): d softplus
  float* input;     // (kSegment)
  float* decayed;   // (kSegment, states, 2): decay, decay * previous state
  float* grad_row;  // (kSegment, rank + 2 * states): summed over the vectors of the task
  float* carry;     // (states, slice width): gradient that flows into the previous segment
  float* grad_dt;   // (kSegment)
  float* grad_in;   // (kSegment)
  float* zeros;
  static int64_t floats(const qmamba_scan& scan) {
    const int64_t row = scan.rank + 2 * scan.states;
    return W * kSegment * (5 + 2 * scan.states + row) + scan.states * scan.padded +
           std::max(scan.padded, row) + W;
  }
  Tape(const qmamba_scan& scan, float* memory) {
    auto take = [&](int64_t count) { float* p = memory; memory += count; return p; };
    dt = take(W * kSegment);
    slope = take(W * kSegment);
    input = take(W * kSegment);
    grad_dt = take(W * kSegment);
    grad_in = take(W * kSegment);
    decayed = take(W * kSegment * scan.states * 2);
    grad_row = take(W * kSegment * (scan.rank + 2 * scan.states));
    carry = take(scan.states * scan.padded);
    const int64_t longest = std::max(scan.padded, scan.rank + 2 * scan.states) + W;
    zeros = take(longest);
    std::memset(zeros, 0, sizeof(float) * longest);
  }
};

// Run the steps of one segment forward for one vector of channels and keep what the way back needs.
template <int States, class T>
static void replay(const qmamba_scan& scan, const Block<T>* blocks, int live, int64_t image,
                   int64_t route, int64_t segment, int64_t channel, int count, const Tape& tape) {
  const int states = States > 0 ? States : (int)scan.states;
  for (int base = 0; base < live; base += kBlock) {
    const Block<T>& block = blocks[base / kBlock];
    vfloat raw[kBlock];
    raw_time_step(scan, AnySteps(), block, route, channel, count, raw);
    for (int t = 0; t < kBlock; t++) {
      Softplus dt{raw[t], broadcast(1.0f)};
      if (scan.softplus) dt = softplus(raw[t]);
      store(tape.dt + (base + t) * W, dt.value);
      store(tape.slope + (base + t) * W, dt.slope);
      store(tape.input + (base + t) * W, load_part(block.x[t] + channel, count));
    }
  }
  const int64_t segments = (scan.steps + kSegment - 1) / kSegment;
  const float* saved =
      scan.states_saved +
      (((image * scan.routes + route) * segments + segment) * scan.states) * scan.padded + channel;
  for (int n = 0; n < states; n++) {
    const vfloat decay = load(scan.decay + (route * scan.states + n) * scan.padded + channel);
    vfloat h = load(saved + n * scan.padded);
#pragma GCC unroll 4
    for (int t = 0; t < live; t++) {
      const vfloat dt = load(tape.dt + t * W);
      const vfloat a = exp2(dt * decay), kept = a * h;
      const float b = blocks[t / kBlock].projected[t % kBlock][scan.rank + n];
      float* slot = tape.decayed + ((int64_t)t * states + n) * 2 * W;
      store(slot, a);
      store(slot + W, kept);
      h = kept + dt * load(tape.input + t * W) * b;
    }
  }
}

QMAMBA_INLINE void add_or_set(float* target, vfloat value, bool add) {
  store(target, add ? load(target) + value : value);
}

// From the gradient of the raw time step, in tape.grad_dt, to those of its two low-rank factors.
template <class T>
static void low_rank_gradients(const qmamba_scan& scan, const Block<T>* blocks, int live, int64_t own,
                               int64_t route, int64_t channel, bool add, const Tape& tape) {
  const int64_t row = scan.rank + 2 * scan.states;
  for (int64_t r = 0; r < scan.rank; r++) {
    const vfloat weight = load(scan.dt_weight + (route * scan.rank + r) * scan.padded + channel);
    float* total = scan.grad_dt_weight + (own * scan.rank + r) * scan.padded + channel;
    vfloat grad_weight = load(total);
#pragma GCC unroll 4
    for (int t = 0; t < live; t++) {
      const vfloat grad_raw = load(tape.grad_dt + t * W);
      grad_weight += grad_raw * blocks[t / kBlock].projected[t % kBlock][r];
      add_or_set(tape.grad_row + (t * row + r) * W, grad_raw * weight, add);
    }
    store(total, grad_weight);
  }
}

template <int States, class T>
static void backward_task(const qmamba_scan& scan, int64_t image, Slice slice, float* grad_sum,
                          float* grad_rows, const Tape& tape) {
  const int states = States > 0 ? States : (int)scan.states;
  const int64_t row = scan.rank + 2 * scan.states, width = slice.width();
  const int64_t segments = (scan.steps + kSegment - 1) / kSegment;
  constexpr float kLn2 = 0.6931471805599453f;

  for (int64_t route = 0; route < scan.routes; route++) {
    const int32_t* order = order_of(scan, image, route);
    const int64_t own = image * scan.routes + route, map = scan.pixels * scan.channels;
    const T* x = (const T*)scan.x + (scan.shared ? image : own) * map;
    const T* grad_y = (const T*)scan.grad_y + (scan.merged ? image : own) * map;
    T* grad_x = (T*)scan.grad_x + own * map;
    const float* delta = scan.delta ? scan.delta + own * map : tape.zeros;
    float* grad_delta = scan.grad_delta ? scan.grad_delta + own * map : nullptr;
    const float* projected = scan.projected + (image * scan.pixels * scan.routes + route) * row;
    std::memset(tape.carry, 0, sizeof(float) * states * width);

    for (int64_t segment = segments - 1; segment >= 0; segment--) {
      const int64_t begin = segment * kSegment;
      const int live = (int)std::min<int64_t>(kSegment, scan.steps - begin);
      Block<T> blocks[kSegment / kBlock];
      int64_t pixel[kSegment];
      const T* grad[kSegment];
      for (int t = 0; t < (live + kBlock - 1) / kBlock * kBlock; t++) {
        const int64_t p = order[begin + (t < live ? t : live - 1)];
        Block<T>& block = blocks[t / kBlock];
        pixel[t] = p;
        block.x[t % kBlock] = p < 0 ? (const T*)tape.zeros : x + p * scan.channels;
        block.delta[t % kBlock] = p < 0 ? tape.zeros : delta + p * scan.channels;
        block.projected[t % kBlock] = p < 0 ? tape.zeros : projected + p * scan.routes * row;
        grad[t] = p < 0 ? (const T*)tape.zeros : grad_y + p * scan.channels;
      }
      for (int v = 0; v < slice.vectors; v++) {
        const int64_t channel = slice.first + (int64_t)v * W;
        const int count = v + 1 == slice.vectors ? slice.last_count : W;
        replay<States>(scan, blocks, live, image, route, segment, channel, count, tape);
        std::memset(tape.grad_dt, 0, sizeof(float) * W * live);
        std::memset(tape.grad_in, 0, sizeof(float) * W * live);
        for (int n = 0; n < states; n++) {
          const vfloat a_log = load(scan.decay + (route * scan.states + n) * scan.padded + channel) * kLn2;
          float* carry = tape.carry + n * width + (int64_t)v * W;
          vfloat flow = load(carry), grad_a = vfloat{};
#pragma GCC unroll 4
          for (int t = live - 1; t >= 0; t--) {
            const float* coefficient = blocks[t / kBlock].projected[t % kBlock] + scan.rank;
            const float b = coefficient[n], c = coefficient[states + n];
            const float* slot = tape.decayed + ((int64_t)t * states + n) * 2 * W;
            const vfloat a = load(slot), kept = load(slot + W);
            const vfloat dt = load(tape.dt + t * W), in = load(tape.input + t * W);
            const vfloat g = load_part(grad[t] + channel, count);
            const vfloat grad_h = g * c + flow;  // dL/dh[t]
            flow = a * grad_h;
            const vfloat dt_in = dt * in, grad_h_b = grad_h * b, grad_decay = grad_h * kept;
            float* grad_b = tape.grad_row + (t * row + scan.rank + n) * W;
            float* grad_c = grad_b + states * W;
            add_or_set(grad_b, grad_h * dt_in, v > 0);
            add_or_set(grad_c, g * (kept + dt_in * b), v > 0);
            float* grad_dt = tape.grad_dt + t * W;
            float* grad_in = tape.grad_in + t * W;
            store(grad_dt, load(grad_dt) + grad_h_b * in + grad_decay * a_log);
            store(grad_in, load(grad_in) + grad_h_b * dt);
            grad_a += grad_decay * dt;
          }
          store(carry, flow);
          float* total = scan.grad_decay + (own * scan.states + n) * scan.padded + channel;
          store(total, load(total) + grad_a);
        }
        float* bias = scan.grad_dt_bias + own * scan.padded + channel;
        float* skip_total = scan.grad_skip + own * scan.padded + channel;
        vfloat grad_bias = load(bias), grad_skip = load(skip_total);
        const vfloat skip = scan.merged ? vfloat{} : load(scan.skip + route * scan.padded + channel);
        for (int t = 0; t < live; t++) {
          const vfloat grad_raw = load(tape.grad_dt + t * W) * load(tape.slope + t * W);
          store(tape.grad_dt + t * W, grad_raw);
          grad_bias += grad_raw;
          if (pixel[t] < 0) continue;
          const vfloat g = load_part(grad[t] + channel, count);
          grad_skip += g * load(tape.input + t * W);
          const vfloat grad_in = load(tape.grad_in + t * W) + g * skip;
          if (grad_delta)
            store_part(grad_delta + pixel[t] * scan.channels + channel, grad_raw, count);
          if (scan.shared)
            add_or_set(grad_sum + pixel[t] * width + (int64_t)v * W, grad_in, route > 0);
          else
            store_part(grad_x + pixel[t] * scan.channels + channel, grad_in, count);
        }
        store(bias, grad_bias);
        store(skip_total, grad_skip);
        low_rank_gradients(scan, blocks, live, own, route, channel, v > 0, tape);
      }
      for (int t = 0; t < live; t++) {
        if (pixel[t] < 0) continue;
        float* target = grad_rows + (pixel[t] * scan.routes + route) * row;
        for (int64_t i = 0; i < row; i++) target[i] = sum_lanes(load(tape.grad_row + (t * row + i) * W));
      }
    }
  }
}

// The sum over routes of a shared input's gradient (with the skip term that a merged scan has not
// added yet), and grad_projected summed over the channel groups, for the rows [begin, end) of the
// flattened (batch, pixels).
template <class T>
static void finish_rows(const qmamba_scan& scan, int64_t groups, const float* grad_rows, int64_t begin,
                        int64_t end) {
  if (scan.shared) {
    for (int64_t group = 0; group < groups; group++) {
      const Slice slice = slice_of(scan, groups, group);
      for (int64_t r = begin; r < end; r++) {
        const int64_t image = r / scan.pixels, pixel = r % scan.pixels;
        const T* grad_y = (const T*)scan.grad_y + r * scan.channels;
        T* grad_x = (T*)scan.grad_x + r * scan.channels;
        const float* sum = accumulator(scan, image, slice) + pixel * slice.width();
        for (int v = 0; v < slice.vectors; v++) {
          const int64_t channel = slice.first + (int64_t)v * W;
          const int count = v + 1 == slice.vectors ? slice.last_count : W;
          vfloat total = load(sum + (int64_t)v * W);
          if (scan.merged) total += load_part(grad_y + channel, count) * load(scan.skip + channel);
          store_part(grad_x + channel, total, count);
        }
      }
    }
  }
  if (groups == 1) return;  // the only group has written to grad_projected itself
  const int64_t columns = scan.routes * (scan.rank + 2 * scan.states);
  for (int64_t r = begin; r < end; r++) {
    const int64_t image = r / scan.pixels, pixel = r % scan.pixels;
    for (int64_t i = 0; i < columns; i++) {
      float total = 0;
      for (int64_t group = 0; group < groups; group++)
        total += grad_rows[((image * groups + group) * scan.pixels + pixel) * columns + i];
      scan.grad_projected[r * columns + i] = total;
    }
  }
}
