// The C interface of networks on quantised operands: what the Python side fills in.
#pragma once
#include <cstdint>

#include "scan.h"

extern "C" {

// A uniform grid for each image: code c stands for c * scale - offset, cut off at two bounds.
struct qmamba_grid {
  float scale, offset, lowest, highest;
};

// A constant as codes; it is never stored in float.
struct qmamba_constant {
  const int8_t* codes;
  qmamba_grid grid;
};

// Where the grids come from. Codes are stored as their distance from the first.
struct qmamba_grid_rule {
  qmamba_grid* grids;    // (images): given, or the result where there are weights
  const float* weights;  // (8): DLS, weights of the step and of the offset for mean, deviation, least
                         // and greatest value; null where the grids are given
  int64_t bits;
  int64_t first, last;   // the smallest and the largest code
  int64_t copies;        // how often each value counts in the deviation
};

// An operand: `count` neighbouring numbers in each of `rows` rows of each image.
struct qmamba_operand {
  const float* x;      // number (image, row, i) is x[image * image_stride + row * row_stride + i]
  float* values;       // the levels of the numbers, placed like x, which it may be; or null
  uint8_t* codes;      // (images, rows, count), dense, the bounds left aside; or null
  float* code_scale;   // (images): a value is code * code_scale - code_offset; with codes
  float* code_offset;  // (images)
  double* partial;     // scratch: (images, kParts, 4)
  qmamba_grid_rule rule;
  int64_t images, rows, count, row_stride, image_stride;
};

// The time steps of a map before bias and softplus, from their low-rank form, on their grids.
struct qmamba_steps {
  const float* low;        // (batch, pixels, routes, row): the first `rank` numbers are read
  float* values;           // (batch, routes, pixels, channels)
  double* partial;         // scratch: (batch, kParts, 4)
  float* weights;          // scratch: (routes, rank, padded)
  qmamba_constant dt_weight;  // (routes, rank, padded)
  qmamba_grid_rule rule;
  int64_t batch, pixels, routes, channels, padded, rank, row;
};

// What the scan below needs to know before it starts, in one pass over its operands: the grids of x,
// the time steps, B and C; and the low-rank form of the steps is put on its own.
struct qmamba_scan_grids {
  const float* x;          // (batch, pixels, channels)
  float* projected;        // (batch, pixels, routes, rank + 2 * states)
  double* partial;         // scratch: (4, batch, kParts, 4)
  float* weights;          // scratch: (routes, rank, padded)
  qmamba_constant dt_weight;  // (routes, rank, padded)
  qmamba_grid_rule low;    // given
  qmamba_grid_rule operands[4];  // of x, the steps, B and C
  int64_t batch, pixels, routes, channels, padded, rank, states;
};

// The scan with time steps as codes of at most 4 bits. `scan` holds the rest; of its `projected` the
// low-rank steps are on their grid already, and x, B and C are put on theirs here. Its `dt_weight`,
// `dt_bias`, `decay` and `skip` are taken from the constants instead; x and y are float32 and merged.
//
// A channel has one time step for each code: softplus and exponentials are taken of those alone.
struct qmamba_table_scan {
  qmamba_scan scan;
  qmamba_constant dt_weight;  // (routes, rank, padded)
  qmamba_constant bias;       // (routes, padded)
  qmamba_constant decay;      // (routes, padded, lanes): A
  qmamba_constant skip;       // (routes, padded)
  qmamba_grid_rule operands[4];  // of x, the steps, B and C, their grids known
  qmamba_grid_rule output;    // of y; without weights its grids are not asked for
  double* partial;            // scratch: (batch, kParts, 4), for the grids of y
  const float* gate;          // y is multiplied by SiLU of this, rows gate_stride apart; or null
  float* tables;              // scratch: qmamba_table_floats() numbers, aligned to 64 bytes
  int64_t lanes;              // states rounded up to a multiple of 16
  int64_t gate_stride;
};

// A depthwise convolution on channel-last maps, zero outside, of the input's levels.
struct qmamba_depthwise {
  const float* x;           // (batch, height, width): channels, `stride` apart
  const qmamba_grid* grid;  // of the input, one for all images, or null
  const float* bias;        // (padded)
  float* weights;           // scratch: (side * side, padded)
  qmamba_constant weight;   // (side * side, padded)
  float* y;                 // (batch, height, width, channels), dense
  int64_t batch, height, width, channels, padded, stride;
  int64_t side, dilation;
  int64_t first, last;      // codes of the input
  int32_t activation;       // qmamba_activation
};

// Places in `operands`.
enum : int { QMAMBA_X = 0, QMAMBA_STEPS = 1, QMAMBA_B = 2, QMAMBA_C = 3 };

enum qmamba_activation : int32_t { QMAMBA_NO_ACTIVATION = 0, QMAMBA_SILU = 1, QMAMBA_GELU = 2 };
}

// Into how many parts an image is cut, whatever the number of threads, so that sums are the same.
constexpr int64_t kParts = 16;
