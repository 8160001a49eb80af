// Rounding rows of values to uniform grids in training, its gradients, and statistics of rows.
#pragma once
#include <cstdint>

#include "common/interface.h"

extern "C" {

// All arrays are dense float32. A row has one grid; `lowest` and `highest` are null without bounds.
struct qmamba_rounding {
  const float* x;            // (rows, count)
  const float* grad;         // (rows, count): backward, of the result
  float* result;             // (rows, count): the levels, or the gradient of x
  const float* scale;        // (rows)
  const float* offset;       // (rows)
  const float* lowest;       // (rows)
  const float* highest;      // (rows)
  const float* slope;        // (rows): qmamba_add_statistics_gradient, factor of x
  const float* shift;        // (rows): its constant
  const float* at_lowest;    // (rows): what values that attain the lowest get in addition
  const float* at_highest;   // (rows)
  float* sums;               // (rows, 4): gradients of scale, offset and the two bounds
                             // or (rows, 6): mean, sum of squared deviations, least, greatest and
                             // how often these two are attained
  double* partial;           // (rows, blocks, 4) of scratch, blocks = ceil(count / kRoundingBlock)
  int64_t rows, count;
  float low, high;           // the smallest and the largest code
};

// DLS: the grid of each row from its statistics. `state` holds kDynamicState arrays of (rows).
struct qmamba_dynamic {
  const float* x;               // (rows, count)
  const float* grad;            // (rows, count): backward
  float* result;                // (rows, count): the levels or the gradient of x; null for none
  const float* step_weights;    // (4)
  const float* offset_weights;  // (4)
  float* state;                 // (kDynamicState, rows): written forward, read backward
  float* weight_grads;          // (8): backward, of the step weights and of the offset weights
  double* partial;              // as for qmamba_rounding
  int64_t rows, count, copies;
  float low, high;
  float narrowest, tiny;        // least step as a part of the widest, and the least of both
  float gradient_scale;
};

// RFA: one row, codes by learned thresholds.
struct qmamba_thresholds {
  const float* x;       // (count)
  const float* grad;    // (count): backward
  float* result;        // (count): the levels or the gradient of x
  const float* points;  // (levels), not necessarily in order
  float* sums;          // (2 + levels): gradients of step, offset and points
  int64_t count, levels;
  float step, offset, low, high, first_level, end_slope;
};

}

// The first six are those of qmamba_row_statistics with the deviation in the second place.
enum dynamic_state { kScale = 6, kOffset, kShiftedMean, kSignedStep, kDynamicState };

// Sums are formed in blocks of this many values and then over blocks in order, so a row's result
// depends neither on the threads nor on the other rows.
constexpr int64_t kRoundingBlock = 8192;

enum rounding_pass : int32_t {
  kExtremes,    // partial: sum, least, greatest
  kDeviations,  // partial: sum of squared deviations and counts of the extremes, from `sums`
  kRound,
  kRoundBackward,
  kAddStatistics,
};
