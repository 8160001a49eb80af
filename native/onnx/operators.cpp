// The scan as operators of ONNX Runtime, qmamba::SS2D and qmamba::SS2DRoutes: registered in a
// session, they take the place of the functions of these names that exported files carry.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <vector>

#include "common/dispatch.h"
#include "onnx/runtime.h"
#include "scan/scan.h"

extern "C" int32_t qmamba_lanes();
extern "C" int64_t qmamba_workspace(const qmamba_scan*, int32_t threads, int32_t backward);
extern "C" void qmamba_forward(const qmamba_scan*, qmamba_parallel_for, int32_t threads,
                               int32_t lanes);

namespace {

constexpr int64_t kRoutes = 4;
constexpr int64_t kMultiple = 16;
constexpr size_t kMostAxes = 5;

struct Kernel {
  OrtTable ort;
  int64_t window = 1;
  bool merged;
};

void require(void* status) {
  if (status) throw std::runtime_error("qmamba: ONNX Runtime refused a call of the scan operator");
}

struct Operand {
  const float* data;
  std::vector<int64_t> sides;
};

Operand operand(OrtTable ort, void* context, size_t index, size_t axes) {
  const void* value = nullptr;
  require(ort_call(ort, ORT_INPUT, context, index, &value));
  void* shape = nullptr;
  require(ort_call(ort, ORT_SHAPE, value, &shape));
  size_t rank = 0;
  int64_t sides[kMostAxes] = {};
  void* failed = ort_call(ort, ORT_RANK, (const void*)shape, &rank);
  if (!failed && rank == axes) failed = ort_call(ort, ORT_SIDES, (const void*)shape, sides, rank);
  ort_call(ort, ORT_RELEASE_SHAPE, shape);
  require(failed);
  if (rank != axes) throw std::runtime_error("qmamba: an operand of the scan has a wrong rank");
  void* data = nullptr;
  require(ort_call(ort, ORT_TENSOR_DATA, (void*)value, &data));
  return {(const float*)data, {sides, sides + rank}};
}

// The pixel of each step of the four routes, -1 at padding; see qmamba.ops.scan_routes.
std::vector<int32_t> route_table(int64_t height, int64_t width, int64_t window) {
  const int64_t rows = (height + window - 1) / window, columns = (width + window - 1) / window;
  const int64_t steps = rows * columns * window * window;
  std::vector<int32_t> order(kRoutes * steps);
  int64_t step = 0;
  const auto pixel = [&](int64_t y, int64_t x) {
    return y < height && x < width ? int32_t(y * width + x) : -1;
  };
  for (int64_t row = 0; row < rows; row++)
    for (int64_t column = 0; column < columns; column++)
      for (int64_t y = 0; y < window; y++)
        for (int64_t x = 0; x < window; x++)
          order[step++] = pixel(row * window + y, column * window + x);
  for (int64_t column = 0; column < columns; column++)
    for (int64_t row = 0; row < rows; row++)
      for (int64_t x = 0; x < window; x++)
        for (int64_t y = 0; y < window; y++)
          order[step++] = pixel(row * window + y, column * window + x);
  std::reverse_copy(order.begin(), order.begin() + steps, order.begin() + 2 * steps);
  std::reverse_copy(order.begin() + steps, order.begin() + 2 * steps, order.begin() + 3 * steps);
  return order;
}

void compute(void* state, void* context) {
  const Kernel& kernel = *(const Kernel*)state;
  const OrtTable ort = kernel.ort;
  const Operand x = operand(ort, context, 0, 4), projected = operand(ort, context, 1, 4);
  const Operand weight = operand(ort, context, 2, 3), bias = operand(ort, context, 3, 2);
  const Operand A = operand(ort, context, 4, 3), D = operand(ort, context, 5, 2);
  const int64_t batch = x.sides[0], height = x.sides[1], width = x.sides[2], channels = x.sides[3];
  const int64_t rank = weight.sides[2], states = A.sides[2];
  using Sides = std::vector<int64_t>;
  if (batch * height * width * channels < 1 || states < 1 || height * width > INT32_MAX ||
      projected.sides != Sides{batch, height, width, kRoutes * (rank + 2 * states)} ||
      weight.sides != Sides{kRoutes, channels, rank} || bias.sides != Sides{kRoutes, channels} ||
      A.sides != Sides{kRoutes, channels, states} || D.sides != Sides{kRoutes, channels})
    throw std::runtime_error("qmamba: the operands of the scan do not fit together");

  const int64_t padded = (channels + kMultiple - 1) / kMultiple * kMultiple;
  std::vector<float> dt_weight(kRoutes * rank * padded), dt_bias(kRoutes * padded);
  std::vector<float> decay(kRoutes * states * padded), skip((kernel.merged ? 1 : kRoutes) * padded);
  for (int64_t k = 0; k < kRoutes; k++)
    for (int64_t d = 0; d < channels; d++) {
      const int64_t from = k * channels + d;
      for (int64_t r = 0; r < rank; r++)
        dt_weight[(k * rank + r) * padded + d] = weight.data[from * rank + r];
      for (int64_t n = 0; n < states; n++)
        decay[(k * states + n) * padded + d] = float(A.data[from * states + n] * M_LOG2E);
      dt_bias[k * padded + d] = bias.data[from];
      skip[(kernel.merged ? 0 : k * padded) + d] += D.data[from];
    }

  const std::vector<int32_t> order = route_table(height, width, kernel.window);
  Sides sides = x.sides;
  if (!kernel.merged) sides.insert(sides.begin() + 1, kRoutes);
  void* output = nullptr;
  require(ort_call(ort, ORT_OUTPUT, context, size_t(0), (const int64_t*)sides.data(), sides.size(),
                   &output));
  void* y = nullptr;
  require(ort_call(ort, ORT_TENSOR_DATA, output, &y));

  qmamba_scan scan = {};
  scan.x = x.data;
  scan.projected = projected.data;
  scan.order = order.data();
  scan.dt_weight = dt_weight.data();
  scan.dt_bias = dt_bias.data();
  scan.decay = decay.data();
  scan.skip = skip.data();
  scan.y = y;
  scan.batch = batch;
  scan.pixels = height * width;
  scan.steps = int64_t(order.size()) / kRoutes;
  scan.channels = channels;
  scan.padded = padded;
  scan.routes = kRoutes;
  scan.rank = rank;
  scan.states = states;
  scan.dtype = QMAMBA_FLOAT32;
  scan.shared = 1;
  scan.merged = kernel.merged;
  scan.softplus = 1;
  const std::unique_ptr<void, void (*)(void*)> workspace(malloc(qmamba_workspace(&scan, 1, 0)),
                                                         free);
  if (!workspace) throw std::bad_alloc();
  scan.workspace = (float*)workspace.get();
  qmamba_forward(&scan, nullptr, 1, qmamba_lanes());
}

template <bool merged>
void* create(const OrtOperator*, OrtTable ort, const void* info) {
  auto kernel = std::make_unique<Kernel>(Kernel{ort, 1, merged});
  require(ort_call(ort, ORT_ATTRIBUTE_INT, info, "window", &kernel->window));
  if (kernel->window < 1 || kernel->window > 65536)
    throw std::runtime_error("qmamba: the window of a scan is out of range");
  return kernel.release();
}

void destroy(void* kernel) { delete (Kernel*)kernel; }
int is_float(const OrtOperator*, size_t) { return kOrtFloat; }
int plain(const OrtOperator*, size_t) { return 0; }
int at_least_one(const OrtOperator*) { return 1; }
size_t operand_count(const OrtOperator*) { return 6; }
size_t result_count(const OrtOperator*) { return 1; }
const char* cpu(const OrtOperator*) { return nullptr; }

template <bool merged>
const char* name(const OrtOperator*) {
  return merged ? "SS2D" : "SS2DRoutes";
}

template <bool merged>
constexpr OrtOperator kOperator = {
    kOrtVersion,   create<merged>, name<merged>, cpu,   is_float, operand_count,
    is_float,      result_count,   compute,      destroy, plain,  plain,
    plain,         at_least_one,   at_least_one, at_least_one,    at_least_one,
};

}  // namespace

// What ONNX Runtime calls when the library is registered in a session's options.
QMAMBA_EXPORT void* RegisterCustomOps(void* options, const OrtBase* base) {
  const OrtTable ort = base->table(kOrtVersion);
  if (!ort) return nullptr;
  void* domain = nullptr;
  if (void* status = ort_call(ort, ORT_CREATE_DOMAIN, "qmamba", &domain)) return status;
  for (const OrtOperator* each : {&kOperator<true>, &kOperator<false>})
    if (void* status = ort_call(ort, ORT_DOMAIN_ADD, domain, each)) return status;
  return ort_call(ort, ORT_OPTIONS_ADD, options, domain);
}
