// The scratch memory of one task of a call on integers: the same on every instruction set.
#pragma once

#include "integer/integer.h"

static inline int64_t round_up(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

// Distance between rows of codes: an odd number of cache lines, so that rows spread over all sets.
static inline int64_t code_stride(int64_t inputs) { return round_up(inputs, 128) + 64; }

// Distance between rows of floats, with room for a vector after the last.
static inline int64_t row_stride(int64_t inputs) { return round_up(inputs, 16) + 16; }

// The quantization parameters of a row of codes.
struct RowQParams {
  float scale, offset;  // value = code * scale - offset
  float sum;            // of the codes, where the weight has an offset
};

struct IntegerScratch {
  RowQParams* qparams;            // (kRowBlock)
  float* rows;            // (kRowGroup, row_stride): of the inputs
  uint8_t* codes;         // (kRowBlock, code_stride): of the inputs
  float* hidden;          // (kRowBlock, hidden_stride): results of the first of two layers
  uint8_t* hidden_codes;  // (kRowBlock, code_stride)
  int64_t hidden_stride, bytes;

  IntegerScratch(const qmamba_integer_call& call, char* begin) : bytes(0) {
    auto take = [&](int64_t size) {
      char* part = begin + bytes;
      bytes += round_up(size, 64);
      return part;
    };
    const bool two = call.second.codes;
    hidden_stride = two ? round_up(call.first.outputs, 16) : 0;
    qparams = (RowQParams*)take(kRowBlock * sizeof(RowQParams));
    rows = (float*)take(kRowGroup * row_stride(call.first.inputs) * sizeof(float));
    codes = (uint8_t*)take(kRowBlock * code_stride(call.first.inputs));
    hidden = (float*)take(kRowBlock * hidden_stride * sizeof(float));
    hidden_codes = (uint8_t*)take(two ? kRowBlock * code_stride(call.first.outputs) : 0);
  }
};
