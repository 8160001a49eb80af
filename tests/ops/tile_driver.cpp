// Linear layers on integers by the kernel for tile registers, which are emulated here, on one thread.
#include "plain_tiles.h"

#define QMAMBA_TILES
#define QMAMBA_VARIANT plain_tiles
#include "integer/integer.cpp"

static int32_t serial(int64_t begin, int64_t end, int64_t, qmamba_body body, void* context) {
  body(begin, end, context);
  return 0;
}

extern "C" int64_t emulated_workspace(const qmamba_integer_call* call) {
  return IntegerScratch(*call, nullptr).bytes + 64;
}

// How often the processor would have refused an instruction.
extern "C" int32_t emulated_linear(const qmamba_integer_call* call) {
  plain::faults = 0;
  qmamba_integer_linear_plain_tiles(call, 1, serial);
  return plain::faults + plain::configured;
}
