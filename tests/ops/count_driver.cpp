// Calls the scan or a linear layer on integers a given number of times, so that instructions can be counted.
// Usage: count_driver LIBRARY PASS(forward|backward|integer) LANES REPEATS
#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "integer/integer.h"
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
