// Max-pooling of images over windows that do not overlap, and its gradient.
#pragma once

#include <cstdint>

#include "chunks.h"

namespace kernels {

// Images are [images, height, width, channels], bfloat16 or float32; windows are squares. Rows and
// columns that fill no window are ignored.
struct Pooling {
  int64_t images, height, width, channels, window;
  int64_t rows() const { return height / window; }
  int64_t columns() const { return width / window; }
};

struct PoolingPasses {
  void (*forward)(const Pooling&, const void* x, void* y, const ParallelFor&);
  // dx ← dy at the first of the largest values of its window (or the last NaN), 0 elsewhere
  void (*gradient)(const Pooling&, const void* x, const void* dy, void* dx, const ParallelFor&);
};

// The passes for this processor, or null.
const PoolingPasses* pooling_passes(bool bfloat16);

}  // namespace kernels
