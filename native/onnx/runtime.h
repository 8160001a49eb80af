// The part of ONNX Runtime's C interface that an operator needs. Its functions stand in a table
// whose order is fixed (functions are only ever appended), so they are named by their index here
// and no header of ONNX Runtime is needed. Version 13 of the interface serves 1.13 and later.
#pragma once
#include <cstddef>
#include <cstdint>

using OrtTable = const void* const*;
constexpr uint32_t kOrtVersion = 13;

struct OrtBase {
  OrtTable (*table)(uint32_t version);
  const char* (*version)();
};

// An operator, as ONNX Runtime asks for it.
struct OrtOperator {
  uint32_t version;
  void* (*create)(const OrtOperator*, OrtTable, const void* info);
  const char* (*name)(const OrtOperator*);
  const char* (*provider)(const OrtOperator*);
  int (*input_type)(const OrtOperator*, size_t);
  size_t (*inputs)(const OrtOperator*);
  int (*output_type)(const OrtOperator*, size_t);
  size_t (*outputs)(const OrtOperator*);
  void (*compute)(void* kernel, void* context);
  void (*destroy)(void* kernel);
  int (*input_kind)(const OrtOperator*, size_t);
  int (*output_kind)(const OrtOperator*, size_t);
  int (*input_memory)(const OrtOperator*, size_t);
  int (*input_arity)(const OrtOperator*);
  int (*inputs_alike)(const OrtOperator*);
  int (*output_arity)(const OrtOperator*);
  int (*outputs_alike)(const OrtOperator*);
};

// A function of the table; every one that can fail returns a status, which is null on success.
template <class... Arguments>
void* ort_call(OrtTable table, int index, Arguments... arguments) {
  return ((void* (*)(Arguments...))table[index])(arguments...);
}

enum OrtIndex : int {
  ORT_CREATE_DOMAIN = 26,    // (const char* name, void** domain)
  ORT_DOMAIN_ADD = 27,       // (void* domain, const OrtOperator*)
  ORT_OPTIONS_ADD = 28,      // (void* options, void* domain)
  ORT_TENSOR_DATA = 51,      // (void* value, void** data)
  ORT_RANK = 61,             // (const void* shape, size_t* rank)
  ORT_SIDES = 62,            // (const void* shape, int64_t* sides, size_t rank)
  ORT_SHAPE = 65,            // (const void* value, void** shape)
  ORT_ATTRIBUTE_INT = 86,    // (const void* info, const char* name, int64_t* value)
  ORT_INPUT = 90,            // (void* context, size_t index, const void** value)
  ORT_OUTPUT = 91,           // (void* context, size_t index, const int64_t*, size_t rank, void**)
  ORT_RELEASE_SHAPE = 99,    // (void* shape), no status
};

constexpr int kOrtFloat = 1;
