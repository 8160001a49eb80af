// Runs the kernel on fixed inputs and writes its results as float32 to standard output, so that two
// processors can be compared. Linked with the sources of native/ in their baseline variant.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "integer/integer.h"
#include "scan/scan.h"

extern "C" {
int64_t qmamba_workspace(const qmamba_scan*, int32_t, int32_t);
void qmamba_forward(const qmamba_scan*, qmamba_parallel_for, int32_t, int32_t);
void qmamba_backward(const qmamba_scan*, qmamba_parallel_for, int32_t, int32_t);
int64_t qmamba_integer_workspace(const qmamba_integer_call*, int32_t);
void qmamba_integer_linear(const qmamba_integer_call*, qmamba_parallel_for, int32_t, int32_t);
}

namespace {
typedef std::vector<float> Floats;
constexpr int kThreads = 2, kLanes = 4;

// Multiples of 2^-10, which every processor computes alike.
Floats values(int64_t count, float scale, float shift) {
  Floats result(count);
  for (int64_t i = 0; i < count; i++)
    result[i] = std::round(1024 * (scale * float((i * 7919 + 101) % 1000 - 500) / 500 + shift)) / 1024;
  return result;
}

void print(const Floats& numbers) { std::fwrite(numbers.data(), 4, numbers.size(), stdout); }

void scan(int64_t height, int64_t width, int64_t channels, int64_t states, int64_t rank, bool half,
          bool merged, bool norm) {
  const int64_t pixels = height * width, routes = 4, padded = (channels + 15) / 16 * 16;
  const int64_t row = rank + 2 * states, segments = (pixels + kSegment - 1) / kSegment;
  const int64_t maps = merged ? 1 : routes;
  std::vector<int32_t> order(routes * pixels);
  for (int64_t i = 0; i < height; i++)
    for (int64_t j = 0; j < width; j++) {
      const int32_t pixel = int32_t(i * width + j);
      const int64_t by_row = i * width + j, by_column = j * height + i;
      order[by_row] = order[pixels + by_column] = pixel;
      order[2 * pixels + pixels - 1 - by_row] = pixel;
      order[3 * pixels + pixels - 1 - by_column] = pixel;
    }
  order[3] = -1;  // a step of padding
  Floats x = values(pixels * channels, 1, 0), projected = values(pixels * routes * row, 1, 0);
  Floats weight = values(routes * rank * padded, 0.3f, 0), bias = values(routes * padded, 1, -2);
  Floats decay = values(routes * states * padded, 0.5f, -1), skip = values(routes * padded, 1, 0);
  for (int64_t i = 0; i < (int64_t)skip.size(); i++)
    if (i % padded >= channels) skip[i] = 0;
  std::vector<uint16_t> half_x(x.size()), half_y(maps * x.size());
  for (size_t i = 0; i < x.size(); i++) {
    uint32_t bits;
    std::memcpy(&bits, &x[i], 4);
    half_x[i] = uint16_t(bits >> 16);
  }
  Floats y(maps * x.size()), grad_y = values(y.size(), 1, 0), grad_x(x.size());
  Floats saved(routes * segments * states * padded), grad_projected(projected.size());
  Floats grad_weight(weight.size()), grad_bias(bias.size()), grad_decay(decay.size());
  Floats grad_skip(routes * padded), norm_weight = values(channels, 1, 1), norm_bias = norm_weight;

  qmamba_scan call{};
  call.x = half ? (const void*)half_x.data() : x.data();
  call.y = half ? (void*)half_y.data() : y.data();
  call.projected = projected.data();
  call.order = order.data();
  call.dt_weight = weight.data();
  call.dt_bias = bias.data();
  call.decay = decay.data();
  call.skip = skip.data();
  if (norm) {
    call.norm_weight = norm_weight.data();
    call.norm_bias = norm_bias.data();
  }
  call.states_saved = norm || half ? nullptr : saved.data();
  call.grad_y = grad_y.data();
  call.grad_x = grad_x.data();
  call.grad_projected = grad_projected.data();
  call.grad_dt_weight = grad_weight.data();
  call.grad_dt_bias = grad_bias.data();
  call.grad_decay = grad_decay.data();
  call.grad_skip = grad_skip.data();
  call.batch = 1;
  call.pixels = call.steps = pixels;
  call.channels = channels;
  call.padded = padded;
  call.routes = routes;
  call.rank = rank;
  call.states = states;
  call.norm_epsilon = 1e-5f;
  call.dtype = half;
  call.shared = call.softplus = 1;
  call.merged = merged;
  Floats workspace(qmamba_workspace(&call, kThreads, 0) / 4 + 16);
  call.workspace = workspace.data();
  qmamba_forward(&call, nullptr, kThreads, kLanes);
  for (size_t i = 0; half && i < y.size(); i++) {
    const uint32_t bits = uint32_t(half_y[i]) << 16;
    std::memcpy(&y[i], &bits, 4);
  }
  print(y);
  if (!call.states_saved) return;
  workspace.resize(qmamba_workspace(&call, kThreads, 1) / 4 + 16);
  call.workspace = workspace.data();
  qmamba_backward(&call, nullptr, kThreads, kLanes);
  for (const Floats* grad : {&grad_x, &grad_projected, &grad_weight, &grad_bias, &grad_decay})
    print(*grad);
}

struct Layer {
  std::vector<int8_t> codes;
  Floats scale, offset, sums, bias;
  qmamba_integer_layer layer{};

  Layer(int64_t inputs, int64_t outputs) {
    const int64_t padded = (outputs + kPanel - 1) / kPanel * kPanel, quads = (inputs + 3) / 4;
    codes.resize(padded * quads * 4);
    for (size_t i = 0; i < codes.size(); i++) codes[i] = int8_t((i * 37 + 11) % 255 - 127);
    scale = values(padded, 0.0039f, 0.0078f);
    offset = values(padded, 0.125f, 0);
    sums = values(padded, 1, 0);
    bias = values(padded, 1, 0);
    layer = {codes.data(), scale.data(), offset.data(), sums.data(), bias.data(), inputs, outputs};
  }
};

void integers(bool norm, bool two, int64_t side) {
  const int64_t height = 7, width = 9, channels = 21, inputs = side ? channels * side * side : channels;
  const Layer first(inputs, 70), second(70, 21);
  const Floats x = values(height * width * channels, 2, 0.25f), weight = values(inputs, 1, 1);
  const int64_t outputs = two ? 21 : 70;
  Floats y(height * width * outputs);
  qmamba_integer_call call{};
  call.x = x.data();
  call.norm_weight = norm ? weight.data() : nullptr;
  call.norm_bias = weight.data();
  call.norm_epsilon = 1e-5f;
  call.residual = two ? x.data() : nullptr;
  call.y = y.data();
  call.first = first.layer;
  if (two) call.second = second.layer;
  call.rows = height * width;
  call.side = side;
  call.stride = 1;
  call.height = height;
  call.width = width;
  call.gelu = two;
  call.products = QMAMBA_DOT_PRODUCTS;
  std::vector<char> workspace(qmamba_integer_workspace(&call, kThreads) + 64);
  call.workspace = (char*)(((uintptr_t)workspace.data() + 63) / 64 * 64);
  qmamba_integer_linear(&call, nullptr, kThreads, kLanes);
  print(y);
}
}  // namespace

int main() {
  for (const int64_t states : {1, 3, 16}) {
    scan(5, 9, 21, states, 2, false, true, false);
    scan(5, 9, 21, states, 2, false, false, false);
    scan(5, 9, 21, states, 2, false, true, true);
    scan(5, 9, 21, states, 2, true, true, false);
  }
  integers(false, false, 0);
  integers(true, true, 0);
  integers(false, false, 3);
}
