// The exported functions of rounding that others of them call.
#pragma once

#include "common/dispatch.h"
#include "rounding/rounding.h"

#define QMAMBA_ROUNDING_PASS(name)                                              \
  QMAMBA_EXPORT void qmamba_##name(const qmamba_rounding* call,                 \
                                   qmamba_parallel_for torch_pool, int32_t threads, int32_t lanes);
QMAMBA_ROUNDING_PASS(row_statistics)
QMAMBA_ROUNDING_PASS(round_rows)
QMAMBA_ROUNDING_PASS(round_rows_backward)
QMAMBA_ROUNDING_PASS(add_statistics_gradient)
#undef QMAMBA_ROUNDING_PASS
