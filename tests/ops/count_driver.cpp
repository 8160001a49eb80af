// Calls a pass of the kernel a given number of times, so that instructions can be counted.
// Usage: count_driver LIBRARY PASS LANES REPEATS, with forward or backward of the scan, integer, or the
// name of a layer in training: linear, linear_backward, channel_window, ...
#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "integer/integer.h"
#include "layers/layers.h"
#include "scan/scan.h"

namespace {
std::vector<float> values(int64_t count, float scale, float shift) {
  std::vector<float> result(count);
  for (int64_t i = 0; i < count; i++) result[i] = scale * std::sin(0.37f * i) + shift;
  return result;
}
// 196 normalized rows of 64 numbers, each on 8 bits of its own range, to 64 outputs and a residual.
void integer_linear(void* library, int lanes, int repeats) {
  typedef void (*pass_function)(const qmamba_integer_call*, qmamba_parallel_for, int32_t, int32_t);
  typedef int64_t (*size_function)(const qmamba_integer_call*, int32_t);
  const auto pass = (pass_function)dlsym(library, "qmamba_integer_linear");
  const auto size = (size_function)dlsym(library, "qmamba_integer_workspace");
  const int64_t rows = 196, channels = 64;
  std::vector<int8_t> codes(channels * channels);
  for (size_t i = 0; i < codes.size(); i++) codes[i] = int8_t(i * 37 % 255 - 127);
  auto x = values(rows * channels, 1, 0), ones = values(channels, 0, 1), zeros = values(channels, 0, 0);
  std::vector<float> y(x.size());
  qmamba_integer_call call{};
  call.x = x.data();
  call.residual = x.data();
  call.norm_weight = ones.data();
  call.norm_bias = zeros.data();
  call.norm_epsilon = 1e-5f;
  call.y = y.data();
  call.rows = rows;
  call.stride = 1;
  call.first = {codes.data(), ones.data(), nullptr, zeros.data(), zeros.data(), channels, channels};
  // Valgrind does not know dot products.
  call.products = QMAMBA_WIDE_PRODUCTS;
  std::vector<char> workspace(size(&call, 1) + 64);
  call.workspace = (char*)(((uintptr_t)workspace.data() + 63) / 64 * 64);
  for (int i = 0; i < repeats; i++) pass(&call, nullptr, 1, lanes);
}

const int64_t kSide = 14, kRows = kSide * kSide, kChannels = 64;

// 196 rows of 64 numbers, or a map of 14 x 14 of them, through a layer and back.
struct LayerCalls {
  std::vector<float> x = values(kRows * kChannels, 1, 0), grad = x, y = x, grad_x = x, inner = x;
  std::vector<float> weight = values(kChannels * kChannels, 0.1f, 0), grad_weight = weight;
  std::vector<float> bias = values(kChannels, 0.1f, 1), grad_bias = bias;
  std::vector<float> mean = values(kRows, 1, 0), scale = values(kRows, 0, 1), grad_gate = x;
  std::vector<float> partial = values(window_chunks(1, kSide) * 10 * kChannels, 0, 0);

  qmamba_linear linear{x.data(), weight.data(), bias.data(), y.data(), kRows, kChannels, kChannels};
  qmamba_linear_backward linear_backward{x.data(),         weight.data(),      grad.data(),
                                         grad_x.data(),    grad_weight.data(), grad_bias.data(),
                                         kRows,            kChannels,          kChannels};
  qmamba_channel_window channel_window{};
  qmamba_channel_window_backward channel_window_backward{};
  qmamba_gated_norm gated_norm{};
  qmamba_gated_norm_backward gated_norm_backward{};

  template <class Call>
  void fill(Call& call) {
    call.x = x.data();
    call.weight = weight.data();
    call.bias = bias.data();
  }
  template <class Call>
  void fill_map(Call& call) {
    fill(call);
    call.batch = call.dilation = 1;
    call.height = call.width = kSide;
    call.channels = call.padded = call.stride = kChannels;
    call.activation = QMAMBA_SILU;
  }
  template <class Call>
  void fill_norm(Call& call) {
    fill(call);
    call.gate = grad.data();
    call.mean = mean.data();
    call.scale = scale.data();
    call.rows = kRows;
    call.channels = call.gate_stride = kChannels;
  }
  template <class Call>
  void fill_backward(Call& call) {
    call.grad = grad.data();
    call.partial = partial.data();
    call.grad_x = grad_x.data();
    call.grad_weight = grad_weight.data();
    call.grad_bias = grad_bias.data();
  }

  LayerCalls() {
    fill_map(channel_window);
    fill_map(channel_window_backward);
    fill_norm(gated_norm);
    fill_norm(gated_norm_backward);
    fill_backward(channel_window_backward);
    fill_backward(gated_norm_backward);
    channel_window.y = gated_norm.y = y.data();
    channel_window_backward.inner = inner.data();
    gated_norm.epsilon = 1e-5f;
    gated_norm_backward.grad_gate = grad_gate.data();
  }
  const void* find(const char* name) const {
#define CALL(pass) \
  if (!std::strcmp(name, #pass)) return &pass;
    CALL(linear)
    CALL(linear_backward)
    CALL(channel_window)
    CALL(channel_window_backward)
    CALL(gated_norm)
    CALL(gated_norm_backward)
#undef CALL
    return nullptr;
  }
};
}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  void* library = dlopen(argv[1], RTLD_NOW);
  if (!library) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  typedef void (*pass_function)(const qmamba_scan*, qmamba_parallel_for, int32_t, int32_t);
  typedef int64_t (*size_function)(const qmamba_scan*, int32_t, int32_t);
  if (!std::strcmp(argv[2], "integer")) {
    integer_linear(library, std::atoi(argv[3]), std::atoi(argv[4]));
    return 0;
  }
  LayerCalls layers;
  if (const void* call = layers.find(argv[2])) {
    typedef void (*layer_function)(const void*, qmamba_parallel_for, int32_t, int32_t);
    const auto pass = (layer_function)dlsym(library, (std::string("qmamba_run_") + argv[2]).c_str());
    for (int i = 0; i < std::atoi(argv[4]); i++) pass(call, nullptr, 1, std::atoi(argv[3]));
    return 0;
  }
  const bool backward = !std::strcmp(argv[2], "backward");
  const auto pass =
      (pass_function)dlsym(library, backward ? "qmamba_backward" : "qmamba_forward");
  const auto size = (size_function)dlsym(library, "qmamba_workspace");
  const int lanes = std::atoi(argv[3]), repeats = std::atoi(argv[4]);

  const int64_t side = 14, pixels = side * side, channels = 64, routes = 4, rank = 2, states = 1;
  const int64_t row = rank + 2 * states, segments = (pixels + kSegment - 1) / kSegment;
  std::vector<int32_t> order(routes * pixels);
  for (int64_t i = 0; i < side; i++)
    for (int64_t j = 0; j < side; j++) {
      const int32_t pixel = int32_t(i * side + j);
      const int64_t by_row = i * side + j, by_column = j * side + i;
      order[by_row] = order[pixels + by_column] = pixel;
      order[2 * pixels + pixels - 1 - by_row] = pixel;
      order[3 * pixels + pixels - 1 - by_column] = pixel;
    }
  auto x = values(pixels * channels, 1, 0), projected = values(pixels * routes * row, 1, 0);
  auto weight = values(routes * rank * channels, 0.3f, 0), bias = values(routes * channels, 1, -2);
  auto decay = values(routes * states * channels, 0.5f, -1), skip = values(channels, 1, 0);
  auto grad_y = values(pixels * channels, 1, 0);
  std::vector<float> y(pixels * channels), grad_x(pixels * channels);
  std::vector<float> saved(routes * segments * states * channels), grad_projected(projected.size());
  std::vector<float> grad_weight(weight.size()), grad_bias(bias.size()), grad_decay(decay.size());
  std::vector<float> grad_skip(routes * channels);

  qmamba_scan scan{};
  scan.x = x.data();
  scan.projected = projected.data();
  scan.order = order.data();
  scan.dt_weight = weight.data();
  scan.dt_bias = bias.data();
  scan.decay = decay.data();
  scan.skip = skip.data();
  scan.grad_y = grad_y.data();
  scan.y = y.data();
  scan.states_saved = saved.data();
  scan.grad_x = grad_x.data();
  scan.grad_projected = grad_projected.data();
  scan.grad_dt_weight = grad_weight.data();
  scan.grad_dt_bias = grad_bias.data();
  scan.grad_decay = grad_decay.data();
  scan.grad_skip = grad_skip.data();
  scan.batch = 1;
  scan.pixels = scan.steps = pixels;
  scan.channels = scan.padded = channels;
  scan.routes = routes;
  scan.rank = rank;
  scan.states = states;
  scan.shared = scan.merged = scan.softplus = 1;
  std::vector<float> workspace(size(&scan, 1, backward) / 4 + 1);
  scan.workspace = workspace.data();
  for (int i = 0; i < repeats; i++) pass(&scan, nullptr, 1, lanes);
  return 0;
}
