// The exported functions of layers in training.
#include "layers/layers.h"

#include "common/dispatch.h"

QMAMBA_RUN(linear)
QMAMBA_RUN(linear_backward)
QMAMBA_RUN(channel_window)
QMAMBA_RUN(channel_window_backward)
QMAMBA_RUN(gated_norm)
QMAMBA_RUN(gated_norm_backward)

// Numbers of floats of `partial`.
QMAMBA_EXPORT int64_t qmamba_window_partial(const qmamba_channel_window_backward* call) {
  return window_chunks(call->batch, call->height) * 10 * call->padded;
}
QMAMBA_EXPORT int64_t qmamba_norm_partial(const qmamba_gated_norm_backward* call) {
  return norm_chunks(call->rows) * 2 * call->channels;
}
