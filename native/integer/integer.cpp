// Linear layers on 8-bit integers for one instruction set.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "common/parallel.h"
#include "common/variant.h"
#include "integer/scratch.h"

namespace QMAMBA_JOIN(qmamba_integer_, QMAMBA_VARIANT) {

#include "common/simd.inc"
#include "common/lanes.inc"
#include "common/activation.inc"
#include "common/codes.inc"
#include "integer/product.inc"
#include "integer/rows.inc"

template <class T>
static void run_block(const qmamba_integer_call& call, const IntegerScratch& scratch, int64_t begin,
                      int64_t rows) {
  const qmamba_integer_layer &first = call.first, &second = call.second;
  quantize_input(call, begin, rows, scratch.rows, scratch.codes, scratch.qparams);
  const bool two = second.codes;
  const int64_t outputs = two ? second.outputs : first.outputs;
  T* y = (T*)call.y + begin * outputs;
  const int64_t element = call.residual_dtype == QMAMBA_BFLOAT16 ? 2 : 4;
  const char* residual = (const char*)call.residual;
  if (residual) residual += begin * outputs * element;
  const int64_t stride = code_stride(first.inputs);
  if (call.output.codes) {
    const int64_t kept = outputs - call.output.columns;
    CodedLayer<T>{first, scratch.qparams, call.gelu != 0, call.output, Codes(call.output),
                  call.output.codes + begin * call.output.columns,
                  kept ? (T*)call.y + begin * kept : nullptr}
        .run(scratch.codes, stride, rows);
    return;
  }
  if (!two) {
    apply_layer<T>(first, scratch.codes, stride, scratch.qparams, rows, call.gelu, residual,
                   call.residual_dtype, call.residual_scale, y, outputs);
    return;
  }
  const int64_t width = scratch.hidden_stride, hidden_codes = code_stride(first.outputs);
  apply_layer<float>(first, scratch.codes, stride, scratch.qparams, rows, call.gelu, nullptr, 0,
                     nullptr, scratch.hidden, width);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = first.outputs; i < width; i++) scratch.hidden[r * width + i] = 0;
  for (int64_t r = 0; r < rows; r += W)
    quantize(scratch.hidden + r * width, width, (int)std::min<int64_t>(W, rows - r), first.outputs,
             scratch.hidden_codes + r * hidden_codes, hidden_codes, scratch.qparams + r);
  if (second.offset)
    for (int64_t r = 0; r < rows; r++)
      scratch.qparams[r].sum = sum_codes(scratch.hidden_codes + r * hidden_codes, first.outputs);
  apply_layer<T>(second, scratch.hidden_codes, hidden_codes, scratch.qparams, rows, false, residual,
                 call.residual_dtype, call.residual_scale, y, outputs);
}

template <class T>
static void run(const qmamba_integer_call& call, int64_t tasks, qmamba_parallel_for parallel_for) {
  run_each(parallel_for, tasks, [&](int64_t task) {
    const int64_t bytes = IntegerScratch(call, nullptr).bytes;
    const IntegerScratch scratch(call, call.workspace + task * bytes);
    const int64_t first = call.rows * task / tasks, last = call.rows * (task + 1) / tasks;
    const int64_t blocks = (last - first + kRowBlock - 1) / kRowBlock;
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t begin = first + (last - first) * block / blocks;
      const int64_t end = first + (last - first) * (block + 1) / blocks;
      run_block<T>(call, scratch, begin, end - begin);
    }
  });
}

}  // namespace

extern "C" void QMAMBA_JOIN(qmamba_integer_linear_, QMAMBA_VARIANT)(
    const qmamba_integer_call* call, int64_t tasks, qmamba_parallel_for parallel_for) {
  using namespace QMAMBA_JOIN(qmamba_integer_, QMAMBA_VARIANT);
  if (call->y_dtype == QMAMBA_BFLOAT16) run<bfloat16>(*call, tasks, parallel_for);
  else run<float>(*call, tasks, parallel_for);
}
