// Sizes and offsets of the structs of the C interface, so that the other side of it can check its own.
#include <cstddef>
#include <cstring>

#include "common/dispatch.h"
#include "integer/integer.h"
#include "layers/layers.h"
#include "maps/maps.h"
#include "quantized/quantized.h"
#include "rounding/rounding.h"
#include "scan/scan.h"

namespace {

struct Entry {
  const char *structure, *field;
  int64_t bytes;
};

#define NAME_OF(structure) #structure
#define NAME(structure) NAME_OF(structure)
#define SIZE {NAME(STRUCT), "", (int64_t)sizeof(STRUCT)},
#define FIELD(field) {NAME(STRUCT), #field, (int64_t)offsetof(STRUCT, field)},
const Entry kEntries[] = {
#define STRUCT qmamba_scan
    SIZE FIELD(x) FIELD(projected) FIELD(delta) FIELD(order) FIELD(dt_weight) FIELD(dt_bias)
    FIELD(decay) FIELD(skip) FIELD(norm_weight) FIELD(norm_bias) FIELD(grad_y) FIELD(y)
    FIELD(states_saved) FIELD(grad_x) FIELD(grad_delta) FIELD(grad_projected) FIELD(grad_dt_weight)
    FIELD(grad_dt_bias) FIELD(grad_decay) FIELD(grad_skip) FIELD(workspace) FIELD(batch)
    FIELD(pixels) FIELD(steps) FIELD(channels) FIELD(padded) FIELD(routes) FIELD(rank) FIELD(states)
    FIELD(norm_epsilon) FIELD(dtype) FIELD(shared) FIELD(merged) FIELD(softplus)
    FIELD(own_orders)
#undef STRUCT
#define STRUCT qmamba_qparams
    SIZE FIELD(scale) FIELD(offset) FIELD(lowest) FIELD(highest)
#undef STRUCT
#define STRUCT qmamba_constant
    SIZE FIELD(codes) FIELD(qparams)
#undef STRUCT
#define STRUCT qmamba_code_output
    SIZE FIELD(codes) FIELD(columns) FIELD(scale) FIELD(offset) FIELD(first) FIELD(last)
#undef STRUCT
#define STRUCT qmamba_qparams_rule
    SIZE FIELD(qparams) FIELD(weights) FIELD(bits) FIELD(first) FIELD(last) FIELD(copies)
#undef STRUCT
#define STRUCT qmamba_operand
    SIZE FIELD(x) FIELD(values) FIELD(codes) FIELD(code_scale) FIELD(code_offset) FIELD(partial)
    FIELD(rule) FIELD(images) FIELD(rows) FIELD(count) FIELD(row_stride) FIELD(image_stride)
#undef STRUCT
#define STRUCT qmamba_scan_operands
    SIZE FIELD(x) FIELD(projected) FIELD(partial) FIELD(weights) FIELD(dt_weight) FIELD(low)
    FIELD(operands) FIELD(batch) FIELD(pixels) FIELD(routes) FIELD(channels) FIELD(padded)
    FIELD(rank) FIELD(states)
#undef STRUCT
#define STRUCT qmamba_quantized_scan
    SIZE FIELD(scan) FIELD(dt_weight) FIELD(dt_bias) FIELD(decay) FIELD(skip) FIELD(delta)
    FIELD(output) FIELD(partial) FIELD(gate) FIELD(tables) FIELD(looked_up) FIELD(gate_stride)
#undef STRUCT
#define STRUCT qmamba_depthwise
    SIZE FIELD(x) FIELD(x_codes) FIELD(qparams) FIELD(bias) FIELD(weights) FIELD(weight) FIELD(y)
    FIELD(output) FIELD(batch) FIELD(height) FIELD(width) FIELD(channels) FIELD(padded) FIELD(stride) FIELD(side)
    FIELD(dilation) FIELD(first) FIELD(last) FIELD(activation)
#undef STRUCT
#define STRUCT qmamba_integer_layer
    SIZE FIELD(codes) FIELD(scale) FIELD(offset) FIELD(sums) FIELD(bias) FIELD(inputs)
    FIELD(outputs)
#undef STRUCT
#define STRUCT qmamba_integer_call
    SIZE FIELD(x) FIELD(x_scale) FIELD(x_offset) FIELD(norm_weight) FIELD(norm_bias) FIELD(residual)
    FIELD(residual_scale) FIELD(y) FIELD(output) FIELD(workspace) FIELD(first) FIELD(second) FIELD(rows)
    FIELD(side) FIELD(stride) FIELD(height) FIELD(width) FIELD(norm_epsilon) FIELD(x_dtype)
    FIELD(residual_dtype) FIELD(y_dtype) FIELD(per_tensor) FIELD(highest) FIELD(gelu)
    FIELD(products)
#undef STRUCT
#define STRUCT qmamba_rounding
    SIZE FIELD(x) FIELD(grad) FIELD(result) FIELD(scale) FIELD(offset) FIELD(lowest) FIELD(highest)
    FIELD(slope) FIELD(shift) FIELD(at_lowest) FIELD(at_highest) FIELD(sums) FIELD(partial)
    FIELD(rows) FIELD(count) FIELD(low) FIELD(high)
#undef STRUCT
#define STRUCT qmamba_dynamic
    SIZE FIELD(x) FIELD(grad) FIELD(result) FIELD(step_weights) FIELD(offset_weights) FIELD(state)
    FIELD(weight_grads) FIELD(partial) FIELD(rows) FIELD(count) FIELD(copies) FIELD(low) FIELD(high)
    FIELD(narrowest) FIELD(tiny) FIELD(gradient_scale)
#undef STRUCT
#define STRUCT qmamba_thresholds
    SIZE FIELD(x) FIELD(grad) FIELD(result) FIELD(points) FIELD(sums) FIELD(count) FIELD(levels)
    FIELD(step) FIELD(offset) FIELD(low) FIELD(high) FIELD(first_level) FIELD(end_slope)
#undef STRUCT
#define STRUCT qmamba_attended_sum
    SIZE FIELD(x) FIELD(x_weight) FIELD(z) FIELD(squeeze) FIELD(squeeze_bias) FIELD(excite)
    FIELD(excite_bias) FIELD(partial) FIELD(z_weight) FIELD(y) FIELD(batch) FIELD(pixels)
    FIELD(channels) FIELD(hidden)
#undef STRUCT
#define STRUCT qmamba_layer_norm
    SIZE FIELD(x) FIELD(weight) FIELD(bias) FIELD(y) FIELD(rows) FIELD(channels) FIELD(epsilon)
    FIELD(dtype)
#undef STRUCT
#define STRUCT qmamba_linear
    SIZE FIELD(x) FIELD(weight) FIELD(bias) FIELD(y) FIELD(rows) FIELD(inputs) FIELD(outputs)
#undef STRUCT
#define STRUCT qmamba_linear_backward
    SIZE FIELD(x) FIELD(weight) FIELD(grad) FIELD(grad_x) FIELD(grad_weight) FIELD(grad_bias)
    FIELD(rows) FIELD(inputs) FIELD(outputs)
#undef STRUCT
#define STRUCT qmamba_channel_window
    SIZE FIELD(x) FIELD(weight) FIELD(bias) FIELD(y) FIELD(batch) FIELD(height) FIELD(width)
    FIELD(channels) FIELD(padded) FIELD(stride) FIELD(dilation) FIELD(activation) FIELD(dtype)
#undef STRUCT
#define STRUCT qmamba_channel_window_backward
    SIZE FIELD(x) FIELD(weight) FIELD(bias) FIELD(grad) FIELD(inner) FIELD(partial)
    FIELD(grad_x) FIELD(grad_weight) FIELD(grad_bias) FIELD(batch) FIELD(height) FIELD(width)
    FIELD(channels) FIELD(padded) FIELD(stride) FIELD(dilation) FIELD(activation) FIELD(dtype)
#undef STRUCT
#define STRUCT qmamba_gated_norm
    SIZE FIELD(x) FIELD(weight) FIELD(bias) FIELD(gate) FIELD(y) FIELD(mean) FIELD(scale)
    FIELD(rows) FIELD(channels) FIELD(gate_stride) FIELD(epsilon) FIELD(dtype)
#undef STRUCT
#define STRUCT qmamba_gated_norm_backward
    SIZE FIELD(x) FIELD(weight) FIELD(bias) FIELD(gate) FIELD(mean) FIELD(scale) FIELD(grad)
    FIELD(grad_x) FIELD(grad_gate) FIELD(partial) FIELD(grad_weight) FIELD(grad_bias)
    FIELD(rows) FIELD(channels) FIELD(gate_stride) FIELD(dtype)
#undef STRUCT
};

}  // namespace

// The offset of a field in bytes, or for an empty name the size of the struct; -1 if there is no such.
QMAMBA_EXPORT int64_t qmamba_layout(const char* structure, const char* field) {
  for (const Entry& entry : kEntries)
    if (!std::strcmp(entry.structure, structure) && !std::strcmp(entry.field, field))
      return entry.bytes;
  return -1;
}
