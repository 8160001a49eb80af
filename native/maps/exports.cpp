// The exported functions of passes over maps.
#include "common/dispatch.h"
#include "maps/maps.h"

QMAMBA_RUN(attended_sum)
QMAMBA_RUN(layer_norm)
