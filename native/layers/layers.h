// The C interface of layers in training, forward and backward: what the Python side fills in.
// Every result has the same bits for any number of threads.
#pragma once
#include <cstdint>

#include "common/interface.h"

extern "C" {

// A linear layer on float32 rows: y = x weight^T + bias.
struct qmamba_linear {
  const float* x;       // (rows, inputs)
  const float* weight;  // (outputs, inputs)
  const float* bias;    // (outputs) or null
  float* y;             // (rows, outputs)
  int64_t rows, inputs, outputs;
};

// Its gradients; each of the three is null where it is not wanted.
struct qmamba_linear_backward {
  const float* x;       // (rows, inputs)
  const float* weight;  // (outputs, inputs)
  const float* grad;    // (rows, outputs)
  float* grad_x;        // (rows, inputs)
  float* grad_weight;   // (outputs, inputs)
  float* grad_bias;     // (outputs)
  int64_t rows, inputs, outputs;
};

// A depthwise convolution of 3 x 3 with zeros around the map, and what is applied to its result.
struct qmamba_channel_window {
  const void* x;        // (batch, height, width, channels), pixels `stride` numbers apart
  const float* weight;  // (9, padded)
  const float* bias;    // (padded)
  void* y;              // (batch, height, width, channels)
  int64_t batch, height, width, channels, padded, stride, dilation;
  int32_t activation;   // qmamba_activation
  int32_t dtype;        // qmamba_dtype of x and y
};

struct qmamba_channel_window_backward {
  const void* x;
  const float* weight;
  const float* bias;
  const void* grad;     // like y
  float* inner;         // (batch, height, width, padded): scratch, gradients before the activation
  float* partial;       // (chunks, 10, padded): scratch, see qmamba_window_chunks
  void* grad_x;         // (batch, height, width, channels), dense
  float* grad_weight;   // (9, padded)
  float* grad_bias;     // (padded)
  int64_t batch, height, width, channels, padded, stride, dilation;
  int32_t activation;
  int32_t dtype;        // of x, grad and grad_x
};

// The layer norm of each row, times silu(gate) where there is a gate.
struct qmamba_gated_norm {
  const void* x;        // (rows, channels)
  const float* weight;  // (channels)
  const float* bias;    // (channels)
  const void* gate;     // (rows, channels), rows `gate_stride` numbers apart, or null
  void* y;              // (rows, channels)
  float* mean;          // (rows)
  float* scale;         // (rows): 1 / deviation
  int64_t rows, channels, gate_stride;
  float epsilon;
  int32_t dtype;        // of x, gate and y
};

struct qmamba_gated_norm_backward {
  const void* x;
  const float* weight;
  const float* bias;
  const void* gate;
  const float* mean;
  const float* scale;
  const void* grad;     // (rows, channels)
  void* grad_x;         // (rows, channels)
  void* grad_gate;      // (rows, channels), dense, or null
  float* partial;       // (chunks, 2, channels): scratch, see qmamba_norm_chunks
  float* grad_weight;   // (channels)
  float* grad_bias;     // (channels)
  int64_t rows, channels, gate_stride;
  int32_t dtype;
};
}

// Rows whose share of the gradients of the parameters is summed by one thread.
constexpr int64_t kNormChunk = 256;
constexpr int64_t kWindowChunk = 8;

inline int64_t norm_chunks(int64_t rows) { return (rows + kNormChunk - 1) / kNormChunk; }
inline int64_t window_chunks(int64_t batch, int64_t height) {
  return batch * ((height + kWindowChunk - 1) / kWindowChunk);
}
