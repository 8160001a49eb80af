// The C interface of passes over channel-last maps: what the Python side fills in.
#pragma once
#include <cstdint>

#include "common/interface.h"

extern "C" {

// Two maps into one: y = x * x_weight + z * z_weight, where the weights of z come from channel attention:
// sigmoid(excite relu(squeeze mean(z))), each with its bias. y may be x or z.
struct qmamba_attended_sum {
  const float* x;             // (batch, pixels, channels)
  const float* x_weight;      // (channels)
  const float* z;             // (batch, pixels, channels)
  const float* squeeze;       // (hidden, channels)
  const float* squeeze_bias;  // (hidden)
  const float* excite;        // (channels, hidden)
  const float* excite_bias;   // (channels)
  float* partial;             // scratch: (batch, kMapParts, channels)
  float* z_weight;            // scratch: (batch, channels)
  float* y;                   // (batch, pixels, channels)
  int64_t batch, pixels, channels, hidden;
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

// Into how many parts an image is cut, whatever the number of threads, so that sums are the same.
constexpr int64_t kMapParts = 16;
