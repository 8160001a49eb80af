// The C interface of passes over channel-last maps: what the Python side fills in.
#pragma once
#include <cstdint>

#include "common/interface.h"

extern "C" {

// Two maps into one: y = x * x_weight + z * z_weight. y may be x or z.
struct qmamba_weighted_sum {
  const float* x;         // (batch, pixels, channels)
  const float* x_weight;  // (channels)
  const float* z;         // (batch, pixels, channels)
  const float* z_weight;  // (batch, channels)
  float* y;               // (batch, pixels, channels)
  int64_t batch, pixels, channels;
};

// The layer norm of each row. y may be x.
struct qmamba_layer_norm {
  const void* x;  // (rows, channels)
  const float* weight;  // (channels)
  const float* bias;    // (channels)
  void* y;        // (rows, channels)
  int64_t rows, channels;
  float epsilon;
  int32_t dtype;  // qmamba_dtype of x and y
};
}
