// Dropout, with the bits of JAX's generator.
#pragma once

#include <cstdint>

#include "chunks.h"

namespace kernels {

// Elements are [examples, size], bfloat16 or float32. Each example has a key of two words.
struct Dropout {
  int64_t examples, size;
  const uint32_t* keys;
  float keep;  // the probability that an element is kept
};

struct DropoutPasses {
  // y ← x · (1 / keep) where a number drawn from [0, 1) is below `keep`, else 0
  void (*drop)(const Dropout&, const void* x, void* y, const ParallelFor&);
};

// The pass for this processor, or null.
const DropoutPasses* dropout_passes(bool bfloat16);

}  // namespace kernels
