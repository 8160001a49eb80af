// The C interface of the scan kernel: what the Python side fills in and every variant reads.
#pragma once
#include <cstdint>

#include "common/interface.h"

extern "C" {

// One call of the 2-D selective scan, forward or backward. All arrays are dense and row-major;
// `padded` is `channels` rounded up to a multiple of 16, and padded parameters are zero there.
struct qmamba_scan {
  // inputs
  const void* x;             // (batch, pixels, channels), or with a routes axis where not shared
  const float* projected;    // (batch, pixels, routes, rank + 2 * states): dt_low | B | C
  const float* delta;        // (batch, routes, pixels, channels) replaces the low-rank dt, or null
  const int32_t* order;      // ([batch,] routes, steps): pixel of each step, -1 at padding
  const float* dt_weight;    // (routes, rank, padded)
  const float* dt_bias;      // (routes, padded)
  const float* decay;        // (routes, states, padded): A * log2(e)
  const float* skip;         // (routes, padded), or (padded) already summed over routes if merged
  const float* norm_weight;  // (channels): layer norm of the merged rows, or null
  const float* norm_bias;    // (channels)
  const void* grad_y;        // backward: like y; without a norm
  // outputs
  void* y;                   // forward: (batch, pixels, channels), or with a routes axis unmerged
  float* states_saved;       // (batch, routes, segments, states, padded), or null where not training
  void* grad_x;              // like x
  float* grad_delta;         // like delta, or null where there is none
  float* grad_projected;     // like projected
  // The gradients of the parameters are added to, per image, and must start at zero.
  float* grad_dt_weight;     // (batch, routes, rank, padded)
  float* grad_dt_bias;       // (batch, routes, padded)
  float* grad_decay;         // (batch, routes, states, padded): with respect to A
  float* grad_skip;          // (batch, routes, padded)
  // scratch of at least qmamba_workspace() bytes
  float* workspace;
  int64_t batch, pixels, steps, channels, padded, routes, rank, states;
  float norm_epsilon;
  int32_t dtype;             // qmamba_dtype
  int32_t shared;            // 1: all routes read one map, 0: each route has its own
  int32_t merged;            // 1: y is the sum over routes, 0: y keeps them apart; needs shared
  int32_t softplus;          // 1: dt = softplus(raw), 0: dt = raw
  int32_t own_orders;        // 1: each image has its own order, 0: one order serves the batch
};
}

// Steps between two saved states: the backward pass recomputes at most this many at once.
constexpr int64_t kSegment = 32;
// Steps whose softplus and exponentials are computed together.
constexpr int kBlock = 8;

// The pixels of one image along one route.
inline const int32_t* order_of(const qmamba_scan& scan, int64_t image, int64_t route) {
  return scan.order + (scan.own_orders ? image * scan.routes + route : route) * scan.steps;
}
