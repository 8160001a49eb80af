// The C interface of linear layers on 8-bit integers: what the Python side fills in.
#pragma once
#include <cstdint>

#include "common/interface.h"

extern "C" {

// A weight matrix of int8 codes, value = code * scale - offset by outputs. `padded` is `outputs`
// rounded up to a multiple of kPanel; the arrays are zero there.
struct qmamba_integer_layer {
  const int8_t* codes;  // (padded / kPanel, ceil(inputs / 4), kPanel, 4), zero after the inputs
  const float* scale;   // (padded)
  const float* offset;  // (padded), or null where it is zero
  const float* sums;    // (padded): sum of the values of the weights of an output
  const float* bias;    // (padded)
  int64_t inputs, outputs;
};

// Element type of the input rows beside those of qmamba_dtype: codes with given qparams.
enum : int32_t { QMAMBA_CODES = 2 };

// Instructions that products of integers may use, where the processor has them.
enum : int32_t {
  QMAMBA_WIDE_PRODUCTS = 0,  // those of 16-bit integers alone
  QMAMBA_DOT_PRODUCTS = 1,   // dot products of four bytes
  QMAMBA_TILE_PRODUCTS = 2,  // and tile registers
};

// One call: rows are normalized if asked, quantized each on its own range or on given qparams,
// multiplied with the first layer, passed through GELU if asked, quantized each on its own range and
// multiplied with the second layer if there is one, and the residual is added. All arrays are dense
// and row-major.
struct qmamba_integer_call {
  const void* x;             // (rows, inputs); or the map (batch, height, width, inputs / side^2)
  const float* x_scale;      // given parameters, value = code * scale - offset: (rows), or one; or null
  const float* x_offset;     // like x_scale
  const float* norm_weight;  // (inputs): layer norm of the rows, or null
  const float* norm_bias;    // (inputs)
  const void* residual;      // (rows, outputs), or null
  const float* residual_scale;  // (outputs): factors of the residual, or null
  void* y;                   // (rows, outputs), less the columns that are codes; or null
  qmamba_code_output output;  // of one layer without residual: its first columns as codes
  char* workspace;           // at least qmamba_integer_workspace() bytes, aligned to 64
  qmamba_integer_layer first;
  qmamba_integer_layer second;  // without codes where there is none
  int64_t rows;
  // Rows are the side x side patches of a map, one at each `stride` of it; side is odd, and 0 where
  // rows are just rows. Outside of the map values are 0, and codes are 0 on given qparams.
  int64_t side, stride, height, width;
  float norm_epsilon;
  int32_t x_dtype, residual_dtype, y_dtype;
  int32_t per_tensor;          // all rows have one given scale and offset
  int32_t highest;           // greatest code on given qparams, at most 255; codes start at 0
  int32_t gelu;              // after the first layer; for codes without the error of a polynomial
  int32_t products;          // the newest instructions that may be used
};
}

constexpr int64_t kPanel = 32;     // outputs that are computed together
constexpr int64_t kRowBlock = 48;  // rows whose intermediate results stay in the cache: whole tiles
constexpr int64_t kRowGroup = 16;  // rows that are quantized together, at most
