// Layers in training, for one instruction set.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "common/parallel.h"
#include "common/variant.h"
#include "layers/layers.h"

namespace QMAMBA_JOIN(qmamba_layers_, QMAMBA_VARIANT) {

#include "common/simd.inc"
#include "common/lanes.inc"
#include "common/activation.inc"
#include "common/scratch.inc"
#include "layers/product.inc"
#include "layers/window.inc"
#include "layers/norm.inc"

}  // namespace

QMAMBA_EXPORT_PASS(layers, linear)
QMAMBA_EXPORT_PASS(layers, linear_backward)
QMAMBA_EXPORT_PASS(layers, channel_window)
QMAMBA_EXPORT_PASS(layers, channel_window_backward)
QMAMBA_EXPORT_PASS(layers, gated_norm)
QMAMBA_EXPORT_PASS(layers, gated_norm_backward)
