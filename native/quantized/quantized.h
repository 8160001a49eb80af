// The C interface of networks on quantized operands: what the Python side fills in.
#pragma once
#include <cstdint>

#include "scan/scan.h"

extern "C" {

// Uniform quantization parameters: code c stands for c * scale - offset, cut off at two bounds.
struct qmamba_qparams {
  float scale, offset, lowest, highest;
};

// A constant as codes; it is never stored in float.
struct qmamba_constant {
  const int8_t* codes;
  qmamba_qparams qparams;
};

// Where the parameters come from. Codes are stored as their distance from the first.
struct qmamba_qparams_rule {
  qmamba_qparams* qparams;    // (images): given, or the result where there are weights
  const float* weights;  // (8): DLS, weights of the step and of the offset for mean, deviation, least
                         // and greatest value; null where the parameters are given
  int64_t bits;
  int64_t first, last;   // the smallest and the largest code
  int64_t copies;        // how often each value counts in the deviation
};

// An operand: `count` neighboring numbers in each of `rows` rows of each image.
struct qmamba_operand {
  const float* x;      // number (image, row, i) is x[image * image_stride + row * row_stride + i]
  float* values;       // the numbers fake-quantized, with the strides of x, which it may be; or null
  uint8_t* codes;      // (images, rows, count), dense, the bounds left aside; or null
  float* code_scale;   // (images): a value is code * code_scale - code_offset; with codes
  float* code_offset;  // (images)
  double* partial;     // scratch: (images, kParts, 4)
  qmamba_qparams_rule rule;
  int64_t images, rows, count, row_stride, image_stride;
};

// What the scan below reads, fake-quantized in place: the low-rank form of delta, x, B and C. The
// parameters of delta are found; delta itself is many times as large and never stored.
struct qmamba_scan_operands {
  float* x;                // (batch, pixels, channels)
  float* projected;        // (batch, pixels, routes, rank + 2 * states)
  double* partial;         // scratch: (4, batch, kParts, 4)
  float* weights;          // scratch: (routes, rank, padded)
  qmamba_constant dt_weight;  // (routes, rank, padded)
  qmamba_qparams_rule low;    // given
  qmamba_qparams_rule operands[4];  // of x, delta, B and C
  int64_t batch, pixels, routes, channels, padded, rank, states;
};

// The scan of fake-quantized operands. `scan` holds most of it; its `dt_weight`, `dt_bias`, `decay`
// and `skip` are taken from the constants instead, and x and y are float32. Where the routes are kept
// apart there are no tables, no norm, no gate, and no parameters of the result.
//
// With tables, for delta of at most 4 bits, softplus and exponentials are taken of the values that a
// channel can have, one for each code, before the scan begins.
struct qmamba_quantized_scan {
  qmamba_scan scan;
  qmamba_constant dt_weight;  // (routes, rank, padded)
  qmamba_constant dt_bias;    // (routes, padded)
  qmamba_constant decay;      // A: (routes, states, padded)
  qmamba_constant skip;       // (routes, padded)
  qmamba_qparams_rule delta;   // known
  qmamba_qparams_rule output;  // of y; without weights its parameters are not asked for
  double* partial;            // scratch: (batch, kParts, 4), for the parameters of y
  const float* gate;          // y is multiplied by SiLU of this, rows gate_stride apart; or null
  float* tables;              // scratch: qmamba_quantized_floats() numbers, aligned to 64 bytes
  int64_t looked_up;          // whether there are tables
  int64_t gate_stride;
};

// A depthwise convolution on channel-last maps, zero outside, of the input's quantizer.
struct qmamba_depthwise {
  const float* x;           // (batch, height, width): channels, `stride` apart
  const uint8_t* x_codes;   // the same as codes, counted from the first one; then x is not read
  const qmamba_qparams* qparams;  // of the input, one for all images, or null
  const float* bias;        // (padded)
  float* weights;           // scratch: (side * side, padded)
  qmamba_constant weight;   // (side * side, padded)
  float* y;                 // (batch, height, width, channels), dense; or null
  qmamba_code_output output;  // y as codes, all columns
  int64_t batch, height, width, channels, padded, stride;
  int64_t side, dilation;
  int64_t first, last;      // codes of the input
  int32_t activation;       // qmamba_activation
};

// Positions in `operands`.
enum : int { QMAMBA_X = 0, QMAMBA_DELTA = 1, QMAMBA_B = 2, QMAMBA_C = 3 };
}

// Into how many parts an image is cut, whatever the number of threads, so that sums are the same.
constexpr int64_t kParts = 16;

// Codes that a table has room for: delta is looked up where it has at most as many.
constexpr int64_t kTableEntries = 16;

// Numbers of the tables of a call, at the beginning of its scratch.
inline int64_t qmamba_table_numbers(const qmamba_quantized_scan& call) {
  const int64_t states = call.scan.states, of_channel = (1 + states) * kTableEntries + states;
  return call.looked_up ? call.scan.batch * call.scan.routes * call.scan.padded * of_channel : 0;
}
