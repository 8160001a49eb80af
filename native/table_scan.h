// The scan with looked-up exponentials. The lanes of a vector are the states of one channel, so that
// the row of decays that belongs to a code lies as the recurrence needs it. A tile of W channels
// walks along the route with its states in registers, and one transposing sum at each step gives the
// outputs of the tile. Included inside a namespace of its own by each variant.

// Where the tables of one route of one image begin.
struct Tables {
  float* decays;  // (padded, codes + 1, lanes): the last row is that of padding
  float* steps;   // (padded / 16, codes, 16)
  int64_t codes, rows;
  Tables(const qmamba_quantized_scan& call, int64_t image, int64_t route)
      : codes(int64_t{1} << call.steps.bits), rows(codes + 1) {
    const qmamba_scan& scan = call.scan;
    const int64_t size = scan.padded * (rows * call.lanes + codes);
    decays = call.tables + (image * scan.routes + route) * size;
    steps = decays + scan.padded * rows * call.lanes;
  }
};

// The tables of one tile of 16 channels.
static void fill_tables(const qmamba_quantized_scan& call, int64_t image, int64_t route, int64_t first) {
  const qmamba_scan& scan = call.scan;
  const Tables tables(call, image, route);
  const Levels levels(call.steps, image);
  float rates[16 * 32];
  qmamba_constant decay = call.decay;
  decay.codes += (route * scan.padded + first) * call.lanes;
  read_constant(decay, 16 * call.lanes, rates);
  for (int64_t i = 0; i < 16 * call.lanes; i++) rates[i] *= 1.4426950408889634f;
  for (int64_t code = 0; code <= tables.codes; code++) {
    float raw = 0;
    if (code < tables.codes) {
      raw = ((float)code + levels.first) * levels.scale - levels.offset;
      raw = std::min(std::max(raw, levels.lowest), levels.highest);
    }
    float dt[16];
    for (int64_t i = 0; i < 16; i += W) {
      const int64_t channel = first + i;
      store(dt + i, softplus(load(scan.dt_bias + route * scan.padded + channel) + raw).value);
      if (code < tables.codes) store(tables.steps + first * tables.codes + code * 16 + i, load(dt + i));
    }
    for (int64_t i = 0; i < 16; i++) {
      float* row = tables.decays + ((first + i) * tables.rows + code) * call.lanes;
      const float* rate = rates + i * call.lanes;
      for (int64_t n = 0; n < call.lanes; n += W) store(row + n, exp2(load(rate + n) * dt[i]));
    }
  }
}

// The step of each lane's code, from (codes, 16) steps.
template <int Bits>
QMAMBA_INLINE vfloat look_up(const float* steps, vint codes) {
  vfloat found[1 << Bits];
#pragma GCC unroll 16
  for (int i = 0; i < 1 << Bits; i++) found[i] = load(steps + i * 16);
#pragma GCC unroll 4
  for (int bit = 0; bit < Bits; bit++) {
#if W == 16
    const __mmask16 set = _mm512_test_epi32_mask((__m512i)codes, _mm512_set1_epi32(1 << bit));
#else
    const vint set = (codes & (1 << bit)) != 0;
#endif
#pragma GCC unroll 8
    for (int i = 0; i < 1 << (Bits - 1 - bit); i++)
#if W == 16
      found[i] = (vfloat)_mm512_mask_mov_ps((__m512)found[2 * i], set, (__m512)found[2 * i + 1]);
#else
      found[i] = set ? found[2 * i + 1] : found[2 * i];
#endif
  }
  return found[0];
}

// Steps that all tiles of a task take before the next ones: their maps stay in the cache meanwhile.
constexpr int kChunk = 64;

// What is the same for all tiles at some steps of a route.
template <int V>
struct alignas(64) Chunk {
  float B[kChunk][V * W];
  float C[kChunk][V * W];
  const float* low[kChunk];  // low-rank time steps
  int64_t pixel[kChunk];
  int64_t ahead[kChunk];     // the pixel of as many steps later, or any
  int count;

  void read(const qmamba_quantized_scan& call, int64_t image, int64_t route, int64_t begin) {
    const qmamba_scan& scan = call.scan;
    const int64_t columns = scan.rank + 2 * scan.states, stride = scan.routes * columns;
    const float* projected =
        scan.projected + (image * scan.pixels * scan.routes + route) * columns;
    const int32_t* order = order_of(scan, image, route) + begin;
    count = (int)std::min<int64_t>(kChunk, scan.steps - begin);
    for (int t = 0; t < count; t++) {
      pixel[t] = order[t];
      const bool later = begin + kChunk + t < scan.steps;
      ahead[t] = std::max<int64_t>(0, order[later ? kChunk + t : t]);
      const char* next = (const char*)(projected + ahead[t] * stride);
      for (int64_t i = 0; i < columns * 4; i += 64) __builtin_prefetch(next + i, 0, 2);
      low[t] = projected + std::max<int64_t>(0, pixel[t]) * stride;
      const float* numbers = low[t] + scan.rank;
      for (int v = 0; v < V; v++) {
        const int live = pixel[t] < 0 ? 0 : (int)std::min<int64_t>(W, scan.states - v * W);
        store(B[t] + v * W, load_first(numbers + v * W, live));
        store(C[t] + v * W, load_first(numbers + scan.states + v * W, live));
      }
    }
  }
};

// A tile of channels along one route.
struct Tile {
  const qmamba_quantized_scan& call;
  const Levels levels;   // of the steps
  const float* decays;   // of its first channel
  const float* steps;
  const float* weights;  // (rank, padded): from the low-rank steps
  const float* x;
  float* sum;            // (pixels, width)
  int64_t width;
  int live_channels;
  bool add;              // to the sum, rather than replace it

  Tile(const qmamba_quantized_scan& call, int64_t image, int64_t route, int64_t channel,
       int live_channels, float* sum, int64_t width, bool add)
      : call(call), levels(call.steps, image), sum(sum), width(width),
        live_channels(live_channels), add(add) {
    const qmamba_scan& scan = call.scan;
    const Tables tables(call, image, route);
    decays = tables.decays + channel * tables.rows * call.lanes;
    steps = tables.steps + channel / 16 * 16 * tables.codes + channel % 16;
    weights = scan.dt_weight + route * scan.rank * scan.padded + channel;
    x = (const float*)scan.x + image * scan.pixels * scan.channels + channel;
  }
};

// dt * x of each channel of a tile at the steps of a chunk, and where its decays are. All of them are
// written before the first is read, because a processor does not forward parts of a vector that is
// still on its way to the cache.
struct alignas(64) TileInputs {
  float input[kChunk][W];
  int32_t row[kChunk][W];
};

// Routes with strides defeat the hardware's own prefetch.
QMAMBA_INLINE void prefetch(const Tile& tile, int64_t pixel) {
  const char* x = (const char*)(tile.x + pixel * tile.call.scan.channels);
  __builtin_prefetch(x, 0, 2);
  __builtin_prefetch(x + W * sizeof(float) - 1, 0, 2);
  __builtin_prefetch(tile.sum + pixel * tile.width, 1, 2);
}

template <int Bits, int V>
QMAMBA_INLINE void read_inputs(const Tile& tile, const Chunk<V>& chunk, TileInputs& inputs) {
  constexpr int32_t codes = 1 << Bits;
  const qmamba_scan& scan = tile.call.scan;
  vint lane;
  __builtin_memcpy(&lane, kLane, sizeof lane);
  const int32_t lanes = (int32_t)tile.call.lanes;
  const vint first_row = lane * ((codes + 1) * lanes);
  for (int begin = 0; begin < chunk.count; begin += kBlock) {
    const int live = std::min(kBlock, chunk.count - begin);
    const float* low[kBlock];
    for (int t = 0; t < kBlock; t++) low[t] = chunk.low[begin + (t < live ? t : 0)];
    vfloat raw[kBlock];
    low_rank_steps(tile.weights, scan.rank, scan.padded, low, raw);
    for (int t = 0; t < live; t++) {
      const int64_t p = chunk.pixel[begin + t];
      vint row = first_row + codes * lanes;
      vfloat input = vfloat{};
      if (p >= 0) {
        const vint code = whole_numbers(tile.levels.code(raw[t]) - tile.levels.first);
        row = first_row + code * lanes;
        input = look_up<Bits>(tile.steps, code) *
                load_first(tile.x + p * scan.channels, tile.live_channels);
      }
      __builtin_memcpy(inputs.row[begin + t], &row, sizeof row);
      store(inputs.input[begin + t], input);
    }
  }
}

// A chunk of steps of one tile. States fill V vectors; only the first Used channels of the tile are
// alive. `saved` holds the states between two chunks.
template <int V, int Used, int Bits>
static void scan_tile(const Tile& tile, const Chunk<V>& chunk, float* saved) {
  vfloat state[Used * V];
#pragma GCC unroll 64
  for (int i = 0; i < Used * V; i++) state[i] = load(saved + i * W);
  TileInputs inputs;
  read_inputs<Bits>(tile, chunk, inputs);
  float nowhere[W] = {};
  for (int t = 0; t < chunk.count; t++) {
    prefetch(tile, chunk.ahead[t]);
    vfloat B[V], C[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
      B[v] = load(chunk.B[t] + v * W);
      C[v] = load(chunk.C[t] + v * W);
    }
    const vfloat y = fold_leaves<Sum>([&](auto channel) QMAMBA_ALWAYS_INLINE {
      constexpr int i = decltype(channel)::value;
      vfloat total = vfloat{};
      if constexpr (i < Used) {
        const float* row = tile.decays + inputs.row[t][i];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
          vfloat& h = state[i * V + v];
          h = load(row + v * W) * h + B[v] * inputs.input[t][i];
          total = v ? total + h * C[v] : h * C[v];
        }
      }
      return total;
    });
    float* to = chunk.pixel[t] < 0 ? nowhere : tile.sum + chunk.pixel[t] * tile.width;
    store(to, tile.add ? load(to) + y : y);
  }
#pragma GCC unroll 64
  for (int i = 0; i < Used * V; i++) store(saved + i * W, state[i]);
}

template <int V, int Used>
static void scan_tile(const Tile& tile, const Chunk<V>& chunk, float* saved) {
  const int64_t bits = tile.call.steps.bits;
  if (bits == 2) scan_tile<V, Used, 2>(tile, chunk, saved);
  else if (bits == 3) scan_tile<V, Used, 3>(tile, chunk, saved);
  else scan_tile<V, Used, 4>(tile, chunk, saved);
}

template <int V>
static void table_task(const qmamba_quantized_scan& call, const Task& task, float* states) {
  const auto [image, first_route, last_route, slice, sum] = task;
  const int64_t size = V * W * W;
  Chunk<V> chunk;
  for (int64_t route = first_route; route < last_route; route++) {
    std::memset(states, 0, sizeof(float) * size * slice.vectors);
    for (int64_t begin = 0; begin < call.scan.steps; begin += kChunk) {
      chunk.read(call, image, route, begin);
      for (int v = 0; v < slice.vectors; v++) {
        const int live_channels = v + 1 == slice.vectors ? slice.last_count : W;
        const Tile tile(call, image, route, slice.first + (int64_t)v * W, live_channels,
                        sum + (int64_t)v * W, slice.width(), route != first_route);
        if (live_channels <= W / 2) scan_tile<V, W / 2>(tile, chunk, states + v * size);
        else scan_tile<V, W>(tile, chunk, states + v * size);
      }
    }
  }
}

// States fill at most two vectors of 16 lanes.
static void table_task(const qmamba_quantized_scan& call, const Task& task) {
  const int64_t vectors = (call.scan.states + W - 1) / W;
  std::unique_ptr<float[]> states(new float[std::max(task.slice.vectors, 1) * 32 * W]);
#define QMAMBA_TABLE_TASK(n) \
  table_task<n>(call, task, states.get())
  if (vectors == 1) QMAMBA_TABLE_TASK(1);
  else if (vectors == 2) QMAMBA_TABLE_TASK(2);
#if W < 16
  else if (vectors <= 4) QMAMBA_TABLE_TASK(4);
#endif
#if W < 8
  else QMAMBA_TABLE_TASK(8);
#endif
#undef QMAMBA_TABLE_TASK
}
